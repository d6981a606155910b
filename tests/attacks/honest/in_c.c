// tries: a program in C
// reference: {"language": "c", "stdin_cases": [{"stdin": "3 4", "stdout": "5.00"}]}
// levels: strict

#include <math.h>
#include <stdio.h>
int main(void) { double a, b; if (scanf("%lf %lf", &a, &b) != 2) return 1; printf("%.2f\n", hypot(a, b)); return 0; }
