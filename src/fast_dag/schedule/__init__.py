"""Pure bookkeeping: told what finished, they answer what may start."""
