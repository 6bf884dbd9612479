/* Before main, and after it: constructors, destructors, atexit, and the executable's very first
   function; also fork handlers that were registered before anything was allocated. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 500 };
static void *blocks[COUNT];
static int handled;

static size_t size_of(int index) { return (size_t)(index * 37 % 9000 + 1); }

static void make(void)
{
    for (int index = 0; index < COUNT; index++) {
        blocks[index] = malloc(size_of(index));
        fill(blocks[index], size_of(index), (unsigned)index);
    }
}

static void end(void)
{
    for (int index = 0; index < COUNT; index++) {
        CHECK(is_filled(blocks[index], size_of(index), (unsigned)index));
        free(blocks[index]);
        blocks[index] = NULL;
    }
}

/* Enough to need memory from the system: no lock may be held against this thread. */
static void handler(void)
{
    void *large[40];
    handled++;
    for (int index = 0; index < 40; index++)
        memset(large[index] = malloc(200000), 1, 200000);
    for (int index = 0; index < 40; index++)
        free(large[index]);
    end();
    make();
}

/* Runs before every constructor, those of libraries included. */
static void first(int count, char **arguments, char **environment)
{
    (void)count, (void)arguments, (void)environment;
    pthread_atfork(handler, handler, handler);
    make();
}
__attribute__((section(".preinit_array"), used)) static void (*const FIRST)(int, char **, char **) = first;

__attribute__((constructor)) static void construct(void)
{
    end();
    make();
}

__attribute__((destructor)) static void destruct(void)
{
    end();
    make();
    end();
}

static void at_exit(void)
{
    end();
    make();
}

int main(void)
{
    atexit(at_exit);
    for (int round = 0; round < 6; round++) {
        pid_t child = fork();
        if (child == 0) {
            CHECK(handled == 2 * round + 2);
            end();
            make();
            exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(handled == 2 * round + 2);
    }
    puts("early: passed");
    return 0;
}
