/* Threads that come and go: thread-specific data whose destructors allocate, more keys than the C
   library has room for without allocating, blocks that outlive their thread. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>

enum { KEYS = 100, THREADS = 300 };
static pthread_key_t keys[KEYS];
static _Atomic int destroyed;
static void *_Atomic left[THREADS];

static void destroy(void *value)
{
    char *text = value;
    CHECK(strcmp(text, "value") == 0);
    free(text);
    char *more = malloc(5000);
    memset(more, 1, 5000);
    more = realloc(more, 90000);
    free(more);
    free(calloc(1, 100));
    destroyed++;
}

/* A destructor that sets its key again: the C library calls it in four rounds. */
static pthread_key_t again;
static void set_again(void *value)
{
    free(value);
    pthread_setspecific(again, malloc(64));
}

static void *body(void *argument)
{
    int number = (int)(intptr_t)argument;
    for (int index = number % KEYS; index < KEYS; index++)
        CHECK(pthread_setspecific(keys[index], strdup("value")) == 0);
    CHECK(pthread_setspecific(again, malloc(64)) == 0);
    void *block = malloc(1000);
    fill(block, 1000, (unsigned)number);
    left[number] = block;
    return malloc(10);
}

int main(void)
{
    int expected = 0;
    for (int index = 0; index < KEYS; index++)
        CHECK(pthread_key_create(&keys[index], destroy) == 0);
    CHECK(pthread_key_create(&again, set_again) == 0);
    for (int start = 0; start < THREADS; start += 30) {
        pthread_t threads[30];
        for (int index = 0; index < 30; index++)
            CHECK(!pthread_create(&threads[index], NULL, body, (void *)(intptr_t)(start + index)));
        for (int index = 0; index < 30; index++) {
            void *result;
            CHECK(!pthread_join(threads[index], &result));
            free(result);
            expected += KEYS - (start + index) % KEYS;
        }
    }
    CHECK(destroyed == expected);
    for (int index = 0; index < THREADS; index++) {
        CHECK(is_filled(left[index], 1000, (unsigned)index));
        free(left[index]);
    }
    /* A thread that only frees, and one that only allocates after a detach. */
    puts("threads: passed");
    return 0;
}
