/* What the benchmark programs share: their times, a generator of numbers, and who serves them. */
#ifndef PATTERN_H
#define PATTERN_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline void *must(void *block)
{
    if (!block)
        abort();
    return block;
}

/* A block whose every page is written, as programs do. */
static inline void *touched(size_t size)
{
    char *block = (char *)must(malloc(size));
    for (size_t at = 0; at < size; at += 4096)
        block[at] = 1;
    return block;
}

/* One line: the library that `malloc` is in, seconds of processor time, peak memory in KiB. */
static inline int finish(uint64_t sum)
{
    struct rusage usage;
    Dl_info library = {};
    getrusage(RUSAGE_SELF, &usage);
    dladdr(dlsym(RTLD_DEFAULT, "malloc"), &library);
    double seconds = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                     (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    const char *name = library.dli_fname ? strrchr(library.dli_fname, '/') : NULL;
    printf("%s %.4f %ld %llu\n", name ? name + 1 : "?", seconds, usage.ru_maxrss, (unsigned long long)sum);
    return 0;
}
#endif
