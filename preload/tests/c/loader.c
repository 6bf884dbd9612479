/* dlopen, dlsym and dlclose over and over, on several threads; blocks cross from the plugin to the
   program and back. That holds with RTLD_DEEPBIND too, by which a plugin would find the C library's
   own free. Who asks the C library's handle does find its own malloc, and what that made is freed,
   resized and measured here. The plugin is found by its name alone, in the program's run path. */
#define _GNU_SOURCE
#include "check.h"
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>

/* Measures, resizes and frees a block that another made, and filled. */
static void take(char *theirs, size_t size)
{
    CHECK(is_filled(theirs, size, (unsigned)size) && malloc_usable_size(theirs) >= size);
    theirs = realloc(theirs, 2 * size);
    CHECK(theirs && is_filled(theirs, size, (unsigned)size));
    free(theirs);
}

static void take_from_c_library(void)
{
    void *library = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    CHECK(library);
    void *(*make)(size_t) = (void *(*)(size_t))dlsym(library, "malloc");
    CHECK(make);
    for (size_t size = 1; size < 300000; size += size / 2 + 7) {
        char *theirs = make(size);
        fill(theirs, size, (unsigned)size);
        take(theirs, size);
        free(make(size));
    }
    CHECK(dlclose(library) == 0);
}

static void visit(int mode, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        void *plugin = dlopen("plugin", mode);
        if (!plugin)
            fprintf(stderr, "%s\n", dlerror());
        CHECK(plugin);
        void *(*make)(size_t) = (void *(*)(size_t))dlsym(plugin, "plugin_make");
        void (*release)(void *) = (void (*)(void *))dlsym(plugin, "plugin_free");
        CHECK(make && release && !dlsym(plugin, "no such symbol") && dlerror());
        char *(*copy)(const char *) = (char *(*)(const char *))dlsym(plugin, "plugin_copy");
        CHECK(copy);
        for (size_t size = 1; size < 300000; size += size / 2 + 7) {
            take(make(size), size);
            release(malloc(size));
            release(make(size));
        }
        char *text = copy("made by the C library, for the plugin");
        CHECK(!strcmp(text, "made by the C library, for the plugin"));
        free(text);
        CHECK(dlclose(plugin) == 0);
        CHECK(!dlopen("/nowhere/lib.so", RTLD_NOW) && dlerror());
    }
}

static void *work(void *argument)
{
    visit(RTLD_NOW, (int)(intptr_t)argument);
    return NULL;
}

int main(void)
{
    pthread_t threads[4];
    visit(RTLD_LAZY | RTLD_LOCAL, 10);
    visit(RTLD_NOW | RTLD_GLOBAL, 10);
    for (int index = 0; index < 4; index++)
        CHECK(!pthread_create(&threads[index], NULL, work, (void *)10));
    for (int index = 0; index < 4; index++)
        CHECK(!pthread_join(threads[index], NULL));
    visit(RTLD_NOW | RTLD_DEEPBIND, 10);
    visit(RTLD_LAZY | RTLD_GLOBAL | RTLD_DEEPBIND, 10);
    take_from_c_library();
    puts("loader: passed");
    return 0;
}
