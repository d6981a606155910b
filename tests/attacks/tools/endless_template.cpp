// tries: makes the compiler recurse without end
// language: cpp

template <int N> struct X { static const int v = X<N + 1>::v + X<N + 2>::v; };
int main() { return X<0>::v; }
