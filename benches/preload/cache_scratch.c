/* cache-scratch: each thread gets a small block from the main thread, frees it, and then works in
   blocks of its own. Where those share a line with another thread's, every write is dear. */
#include "pattern.h"
#include <pthread.h>

enum { THREADS = 4, BYTES = 8 };
static int rounds = 3000, writes = 3000;

static void *work(void *argument)
{
    free(argument);
    for (int round = 0; round < rounds; round++) {
        volatile char *block = must(malloc(BYTES));
        for (int write = 0; write < writes; write++)
            block[write % BYTES]++;
        free((void *)block);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    if (count > 1)
        rounds = atoi(arguments[1]);
    pthread_t threads[THREADS];
    void *blocks[THREADS];
    for (int i = 0; i < THREADS; i++)
        blocks[i] = must(malloc(BYTES));
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, blocks[i]))
            abort();
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return finish(0);
}
