// tries: includes itself
// language: c

#include __FILE__
int main(void) { return 0; }
