/* dlopen, dlsym and dlclose over and over, on several threads; blocks cross from the plugin to the
   program and back. With RTLD_DEEPBIND the plugin finds the C library's own malloc and free, so
   each side frees, resizes and measures what the other's allocator made. */
#define _GNU_SOURCE
#include "check.h"
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>

static const char *path;

static void visit(int mode, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        void *plugin = dlopen(path, mode);
        if (!plugin)
            fprintf(stderr, "%s\n", dlerror());
        CHECK(plugin);
        void *(*make)(size_t) = (void *(*)(size_t))dlsym(plugin, "plugin_make");
        void (*release)(void *) = (void (*)(void *))dlsym(plugin, "plugin_free");
        CHECK(make && release && !dlsym(plugin, "no such symbol") && dlerror());
        for (size_t size = 1; size < 300000; size += size / 2 + 7) {
            char *theirs = make(size);
            CHECK(is_filled(theirs, size, (unsigned)size) && malloc_usable_size(theirs) >= size);
            theirs = realloc(theirs, 2 * size);
            CHECK(theirs && is_filled(theirs, size, (unsigned)size));
            free(theirs);
            theirs = make(size);
            if (!(mode & RTLD_DEEPBIND)) {
                release(malloc(size));
                release(theirs);
            } else {
                free(theirs);
            }
        }
        CHECK(dlclose(plugin) == 0);
        CHECK(!dlopen("/nowhere/lib.so", RTLD_NOW) && dlerror());
    }
}

static void *work(void *argument)
{
    visit(RTLD_NOW, (int)(intptr_t)argument);
    return NULL;
}

int main(int count, char **arguments)
{
    path = arguments[count - 1];
    pthread_t threads[4];
    visit(RTLD_LAZY | RTLD_LOCAL, 10);
    visit(RTLD_NOW | RTLD_GLOBAL, 10);
    for (int index = 0; index < 4; index++)
        CHECK(!pthread_create(&threads[index], NULL, work, (void *)10));
    for (int index = 0; index < 4; index++)
        CHECK(!pthread_join(threads[index], NULL));
    visit(RTLD_NOW | RTLD_DEEPBIND, 10);
    puts("loader: passed");
    return 0;
}
