"""What a person composes: functions from parameters, or a Model, to another."""
