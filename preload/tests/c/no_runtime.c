/* A program with an allocator of its own and no C++ runtime: what plugins in C++ make is made of it,
   before and after one of them brings a runtime, and nothing is looked up for each block. */
#define _GNU_SOURCE
#include "check.h"
#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

static char pool[64 << 20] __attribute__((aligned(256)));
static size_t used;
static long freed;

static int is_mine(const void *block)
{
    return (const char *)block >= pool && (const char *)block < pool + sizeof pool;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    size_t taken = 256 + (size + 255) / 256 * 256;
    if (alignment > 256 || size > sizeof pool / 2)
        return NULL;
    char *block = pool + __atomic_fetch_add(&used, taken, __ATOMIC_RELAXED) + 256;
    if (block + taken > pool + sizeof pool)
        return NULL;
    ((size_t *)block)[-1] = size;
    return block;
}

void *malloc(size_t size) { return aligned_alloc(16, size); }

void *memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }

int posix_memalign(void **result, size_t alignment, size_t size)
{
    *result = aligned_alloc(alignment, size);
    return *result ? 0 : ENOMEM;
}

void free(void *block)
{
    CHECK(!block || is_mine(block));
    __atomic_fetch_add(&freed, block != NULL, __ATOMIC_RELAXED);
}

void *calloc(size_t count, size_t size) { return malloc(count * size); }

void *realloc(void *block, size_t size)
{
    void *moved = malloc(size);
    if (block && moved) {
        CHECK(is_mine(block));
        size_t length = ((size_t *)block)[-1];
        memcpy(moved, block, length < size ? length : size);
    }
    return moved;
}

static void *function_of(void *library, const char *name)
{
    void *function = dlsym(library, name);
    CHECK(function);
    return function;
}

static void *load(const char *name)
{
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    return library;
}

enum { FORMS = 8, FIRST_NOTHROW = 4 };

static void *(*make)(int, size_t);
static void (*end)(int, void *, size_t);

static void make_and_end(void)
{
    for (int form = 0; form < FORMS; form++) {
        for (size_t size = 0; size < 2000; size += size / 2 + 1) {
            void *block = make(form, size);
            CHECK(is_mine(block));
            fill(block, size, (unsigned)form);
            long before = freed;
            end(form, block, size);
            CHECK(freed == before + 1);
        }
    }
}

static void refuse(void)
{
    for (int form = FIRST_NOTHROW; form < FORMS; form++)
        CHECK(!make(form, sizeof pool));
}

/* What the dynamic linker has to say to the program stays, whatever is made meanwhile. */
static void keeps_errors(void (*meanwhile)(void))
{
    CHECK(!dlsym(RTLD_DEFAULT, "a symbol of nobody"));
    meanwhile();
    const char *error = dlerror();
    CHECK(error && strstr(error, "a symbol of nobody"));
}

int main(void)
{
    alarm(60); /* Ends what hangs. */
    CHECK(!dlerror());
    void *makes = load("makes");
    make = (void *(*)(int, size_t))function_of(makes, "makes_block");
    end = (void (*)(int, void *, size_t))function_of(makes, "makes_end");
    keeps_errors(make_and_end);
    refuse();
    keeps_errors(refuse);
    void *blocks[FORMS];
    for (int form = 0; form < FORMS; form++)
        blocks[form] = make(form, 100);
    void *joins = load("joins");
    for (int form = 0; form < FORMS; form++)
        end(form, blocks[form], 100);
    keeps_errors(make_and_end);
    int (*catches)(size_t) = (int (*)(size_t))function_of(joins, "joins_catches");
    CHECK(!catches(100) && catches(sizeof pool));
    make_and_end();
    refuse();
    keeps_errors(refuse);
    CHECK(catches((size_t)-1) && !catches(1));
    puts("no_runtime: passed");
    return 0;
}
