/* fork while other threads allocate: the child allocates, frees what its parent's other threads
   made, starts threads, forks again. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SHELF = 512 };
static void *_Atomic shelf[SHELF];
static atomic_bool is_done;

static void churn(uint64_t *random, int steps)
{
    for (int step = 0; step < steps; step++) {
        uint64_t number = next_random(random);
        size_t size = number % 64 == 0 ? number % 300000 : number % 700;
        unsigned char *block = malloc(size + 4);
        memcpy(block, &(uint32_t){(uint32_t)size}, 4);
        fill(block + 4, size, 5);
        unsigned char *old = atomic_exchange(&shelf[number % SHELF], block);
        if (old) {
            uint32_t length;
            memcpy(&length, old, 4);
            CHECK(is_filled(old + 4, length, 5));
            free(old);
        }
    }
}

static void *work(void *argument)
{
    uint64_t random = (uintptr_t)argument * 77 + 1;
    while (!is_done)
        churn(&random, 100);
    return NULL;
}

static void *work_once(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    churn(&random, 500);
    return NULL;
}

static void wait_for(pid_t child)
{
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}

int main(void)
{
    pthread_t threads[4];
    for (uintptr_t index = 0; index < 4; index++)
        CHECK(!pthread_create(&threads[index], NULL, work, (void *)index));
    uint64_t random = 99;
    for (int round = 0; round < 12; round++) {
        churn(&random, 300);
        pid_t child = fork();
        if (child == 0) {
            churn(&random, 2000);
            pthread_t thread;
            CHECK(!pthread_create(&thread, NULL, work_once, (void *)7));
            CHECK(!pthread_join(thread, NULL));
            if (round % 8 == 0) {
                pid_t grandchild = fork();
                if (grandchild == 0) {
                    churn(&random, 500);
                    exit(0);
                }
                wait_for(grandchild);
            }
            exit(0);
        }
        wait_for(child);
    }
    is_done = 1;
    for (int index = 0; index < 4; index++)
        CHECK(!pthread_join(threads[index], NULL));
    puts("forks: passed");
    return 0;
}
