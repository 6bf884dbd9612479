/* Random replacement among many live blocks: no order for an allocator to lean on. The arguments are
   how many are replaced, and how many live. */
#include "pattern.h"

int main(int count, char **arguments)
{
    int steps = count > 1 ? atoi(arguments[1]) : 4000000;
    size_t blocks = count > 2 ? strtoul(arguments[2], NULL, 10) : 200000;
    void **live = must(calloc(blocks, sizeof *live));
    uint64_t random = 7;
    for (int step = 0; step < steps; step++) {
        uint64_t number = next_random(&random);
        size_t slot = number % blocks;
        free(live[slot]);
        live[slot] = touched((number >> 32) % 64 ? 16 + (number >> 40) % 240 : 4000);
    }
    for (size_t slot = 0; slot < blocks; slot++)
        free(live[slot]);
    free(live);
    return finish(random);
}
