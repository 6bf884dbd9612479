/* Frees what is not allocated, as no program should: the argument says how. */
#include "check.h"

static void *volatile block;

static void free_twice(size_t size)
{
    block = malloc(size);
    free(block);
    free(block);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    if (!strcmp(arguments[1], "small"))
        free_twice(48);
    else if (!strcmp(arguments[1], "medium"))
        free_twice(20000);
    else if (!strcmp(arguments[1], "large"))
        free_twice(1 << 20);
    else if (!strcmp(arguments[1], "inside")) {
        /* The first chunk is the block's, the second continues it. */
        block = malloc(1 << 20);
        free((char *)block + (1 << 16));
    } else
        CHECK(!"a way to be wrong");
    puts("wrong: went on");
    return 0;
}
