/* The version, once. */
#ifndef LC_VERSION
#define LC_VERSION "0.1.0"
#endif
