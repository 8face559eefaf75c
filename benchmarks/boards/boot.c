/* Starts a program on a Cortex-M of QEMU: copies data, clears memory, switches the FPU on. */
#include <stdint.h>

extern uint32_t stack_top, data_origin, data_start, data_end, bss_start, bss_end;
extern int main(void);
extern void initialise_monitor_handles(void), exit(int);
void _init(void);
void _fini(void);
void reset(void);

void _init(void) {}
void _fini(void) {}

static void hang(void) {
  for (;;) {
  }
}

void reset(void) {
  for (uint32_t *from = &data_origin, *to = &data_start; to < &data_end;) *to++ = *from++;
  for (uint32_t *to = &bss_start; to < &bss_end;) *to++ = 0;
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: coprocessors 10 and 11 */
  __asm volatile("dsb\n\tisb");
  initialise_monitor_handles(); /* of semihosting, by which it prints */
  exit(main());
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    &stack_top, reset, hang, hang, hang, hang, hang,
};
