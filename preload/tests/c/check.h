/* What the test programs share: checks that name their line, and a pattern to fill blocks with. */
#ifndef CHECK_H
#define CHECK_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
            _Exit(1);                                                            \
        }                                                                        \
    } while (0)

/* A block's first bytes depend on its address and size, so that a block that two owners share, or
   that moved without its content, is noticed. */
static inline void fill(void *block, size_t size, unsigned seed)
{
    unsigned char *bytes = block;
    for (size_t index = 0; index < size; index++)
        bytes[index] = (unsigned char)(seed + index * 7);
}

static inline int is_filled(const void *block, size_t size, unsigned seed)
{
    const unsigned char *bytes = block;
    for (size_t index = 0; index < size; index++)
        if (bytes[index] != (unsigned char)(seed + index * 7))
            return 0;
    return 1;
}

/* A cheap generator of numbers: the tests want the same ones at each run. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}
#endif
