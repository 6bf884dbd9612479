/* larson: a server's threads replace random blocks of random size, and hand what is left to the
   threads that follow them, which free it. */
#include "pattern.h"
#include <pthread.h>

enum { SLOTS = 1000, THREADS = 4 };
static int steps = 250000, generations = 8;

typedef struct { void *slots[SLOTS]; uint64_t random; } Share;

static void *serve(void *argument)
{
    Share *share = argument;
    for (int step = 0; step < steps; step++) {
        uint64_t number = next_random(&share->random);
        size_t slot = number % SLOTS;
        free(share->slots[slot]);
        share->slots[slot] = touched(8 + (number >> 32) % 1000);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    if (count > 1)
        steps = atoi(arguments[1]);
    static Share shares[THREADS];
    for (int i = 0; i < THREADS; i++)
        shares[i].random = (uint64_t)i + 1;
    for (int generation = 0; generation < generations; generation++) {
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++)
            if (pthread_create(&threads[i], NULL, serve, &shares[(i + generation) % THREADS]))
                abort();
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
    }
    return finish(shares[0].random);
}
