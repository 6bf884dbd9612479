/* Where address space is limited: memory runs out, what was there stays whole, and comes back.
   The limit is set, then the program starts itself anew, so that it holds from the first byte. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MOST = 1 << 20 };

static void exhaust(size_t size)
{
    void **first = NULL;
    int count = 0;
    errno = 0;
    for (;; count++) {
        void **block = malloc(size);
        if (!block)
            break;
        fill(block + 1, 100, (unsigned)count);
        *block = first;
        first = block;
        CHECK(count < MOST);
    }
    CHECK(errno == ENOMEM && count > 20);
    while (first) {
        void **next = *first;
        count--;
        CHECK(is_filled(first + 1, 100, (unsigned)count));
        free(first);
        first = next;
    }
}

int main(int count, char **arguments)
{
    size_t limit = strtoul(arguments[count - 1], NULL, 10) << 20;
    struct rlimit now;
    CHECK(!getrlimit(RLIMIT_AS, &now));
    if (now.rlim_cur != limit) {
        struct rlimit limited = {limit, limit};
        CHECK(!setrlimit(RLIMIT_AS, &limited));
        execv("/proc/self/exe", arguments);
        CHECK(!"started anew");
    }
    for (int round = 0; round < 2; round++) {
        exhaust(1 << 20);
        exhaust(5000);
        exhaust(700000);
    }
    void *block = malloc(1000);
    CHECK(block);
    free(block);
    puts("limits: passed");
    return 0;
}
