/* Threads that pass blocks to each other, resize and free them; every byte is checked. */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>

enum { SLOTS = 4096, THREADS = 8 };
struct head { uint32_t size, seed; };
static struct head *_Atomic slots[SLOTS];
static int steps = 10000;

static size_t random_size(uint64_t number)
{
    switch (number % 100) {
    case 0: return number / 100 % 400000;
    case 1: case 2: case 3: return number / 100 % 40000;
    default: return number / 100 % 600;
    }
}

static void verify(struct head *block)
{
    CHECK(is_filled(block + 1, block->size, block->seed));
}

static struct head *make(uint64_t number)
{
    size_t size = random_size(number), whole = sizeof(struct head) + size;
    struct head *block;
    switch (number >> 60) {
    case 0: block = calloc(1, whole); break;
    case 1: {
        size_t alignment = (size_t)16 << (number >> 40) % 9;
        block = aligned_alloc(alignment, whole);
        CHECK((uintptr_t)block % alignment == 0);
        break;
    }
    default: block = malloc(whole);
    }
    CHECK(block && (uintptr_t)block % 16 == 0);
    *block = (struct head){(uint32_t)size, (uint32_t)number};
    fill(block + 1, size, block->seed);
    return block;
}

static void *work(void *argument)
{
    uint64_t random = (uintptr_t)argument * 0x9E3779B97F4A7C15u + 1;
    for (int step = 0; step < steps; step++) {
        uint64_t number = next_random(&random);
        struct head *block = atomic_exchange(&slots[next_random(&random) % SLOTS], NULL);
        if (block && number % 3 == 0) {
            size_t size = random_size(next_random(&random)), old = block->size;
            block = realloc(block, sizeof(struct head) + size);
            CHECK(is_filled(block + 1, old < size ? old : size, block->seed));
            block->size = (uint32_t)size;
            fill(block + 1, size, block->seed);
        } else {
            if (block) {
                verify(block);
                free(block);
            }
            block = make(number);
        }
        block = atomic_exchange(&slots[next_random(&random) % SLOTS], block);
        if (block) {
            verify(block);
            free(block);
        }
    }
    return NULL;
}

int main(int count, char **arguments)
{
    if (count > 2)
        steps = atoi(arguments[2]);
    for (uintptr_t generation = 0; generation < 3; generation++) {
        pthread_t threads[THREADS];
        for (uintptr_t index = 0; index < THREADS; index++)
            CHECK(!pthread_create(&threads[index], NULL, work, (void *)(generation * 100 + index)));
        for (int index = 0; index < THREADS; index++)
            CHECK(!pthread_join(threads[index], NULL));
    }
    for (int index = 0; index < SLOTS; index++)
        if (slots[index]) {
            verify(slots[index]);
            free(slots[index]);
        }
    puts("stress: passed");
    return 0;
}
