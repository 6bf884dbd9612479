/* Something to report: threads, blocks that others free, a peak, one way to end of several. */
#include "check.h"
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCKS = 10000 };
static void *blocks[BLOCKS];

static void *free_all(void *argument)
{
    (void)argument;
    for (int index = 0; index < BLOCKS; index++)
        free(blocks[index]);
    return NULL;
}

int main(int count, char **arguments)
{
    const char *way = count > 1 ? arguments[1] : "";
    if (!strcmp(way, "killed"))
        raise(SIGTERM);
    if (!strcmp(way, "at once"))
        _exit(0);
    if (!strcmp(way, "parent")) {
        pid_t child = fork();
        if (!child)
            exit(0);
        waitpid(child, NULL, 0);
    }
    char *large = malloc(64 << 20);
    memset(large, 1, 64 << 20);
    CHECK(large[12345] == 1);
    free(large);
    for (int index = 0; index < BLOCKS; index++)
        blocks[index] = malloc(48);
    pthread_t thread;
    for (int index = 0; index < 3; index++) {
        CHECK(!pthread_create(&thread, NULL, index ? (void *(*)(void *))malloc : free_all, NULL));
        CHECK(!pthread_join(thread, NULL));
    }
    malloc_trim(0); /* takes what the other thread freed */
    puts("told");
    return count > 2 ? atoi(arguments[2]) : 0;
}
