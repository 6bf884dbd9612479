/* What a thread makes resident by its first block, of many that live at once: its stack's pages and
   the block's, and a few of the allocator's own. */
#include "check.h"
#include <pthread.h>

enum { THREADS = 1000, MOST_KIB = 32 };
static pthread_barrier_t are_served, may_end;

static void *work(void *argument)
{
    void *block = malloc(40);
    fill(block, 40, 3);
    pthread_barrier_wait(&are_served);
    pthread_barrier_wait(&may_end);
    CHECK(is_filled(block, 40, 3));
    free(block);
    return argument;
}

static long resident_kib(void)
{
    long kib = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    CHECK(status);
    while (fgets(line, sizeof line, status))
        if (!strncmp(line, "VmRSS:", 6))
            kib = atol(line + 6);
    fclose(status);
    CHECK(kib > 0);
    return kib;
}

int main(void)
{
    static pthread_t threads[THREADS];
    CHECK(!pthread_barrier_init(&are_served, NULL, THREADS + 1));
    CHECK(!pthread_barrier_init(&may_end, NULL, THREADS + 1));
    long before = resident_kib();
    for (int index = 0; index < THREADS; index++)
        CHECK(!pthread_create(&threads[index], NULL, work, NULL));
    pthread_barrier_wait(&are_served);
    long held = resident_kib() - before;
    pthread_barrier_wait(&may_end);
    for (int index = 0; index < THREADS; index++)
        CHECK(!pthread_join(threads[index], NULL));
    if (held > THREADS * MOST_KIB)
        fprintf(stderr, "%ld KiB for %d threads\n", held, THREADS);
    CHECK(held <= THREADS * MOST_KIB);
    puts("held: passed");
    return 0;
}
