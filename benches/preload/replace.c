/* Random replacement among many live blocks: no order for an allocator to lean on. */
#include "pattern.h"

int main(int count, char **arguments)
{
    int steps = count > 1 ? atoi(arguments[1]) : 4000000;
    enum { LIVE = 200000 };
    void **live = must(calloc(LIVE, sizeof *live));
    uint64_t random = 7;
    for (int step = 0; step < steps; step++) {
        uint64_t number = next_random(&random);
        size_t slot = number % LIVE;
        free(live[slot]);
        live[slot] = touched((number >> 32) % 64 ? 16 + (number >> 40) % 240 : 4000);
    }
    for (int slot = 0; slot < LIVE; slot++)
        free(live[slot]);
    free(live);
    return finish(random);
}
