/* Computes the examples of examples.h, and prints the bytes of their outputs and of the stack. */
#include <stdio.h>
#include "network.h"
#include "examples.h"

#define DEPTH 16384 /* bytes of the stack that are looked at */
#define APART __attribute__((noinline, noclone))

static network_context context;

/* fills what lies below the caller's frame */
static APART void paint(void) {
  volatile unsigned char bytes[DEPTH];
  for (int i = 0; i < DEPTH; i++) bytes[i] = 0xA5;
}

/* from the caller's frame to the lowest byte that is no longer as it was painted */
static APART int depth(void) {
  volatile unsigned char bytes[DEPTH];
  int i = 0;
  while (i < DEPTH && bytes[i] == 0xA5) i++;
  return DEPTH - i;
}

int main(void) {
  int most = 0;
  for (int n = 0; n < EXAMPLES; n++) {
    paint();
    RUN(n);
    const int used = depth();
    most = used > most ? used : most;
    const unsigned char *bytes = (const unsigned char *)&outputs;
    for (size_t i = 0; i < sizeof outputs; i++) printf("%02x", bytes[i]);
    printf("\n");
  }
  printf("stack %d\n", most);
  return 0;
}
