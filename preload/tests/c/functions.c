/* Every function of C's allocation family: results, alignment, contents, errno. */
#define _GNU_SOURCE
#include "check.h"
#include <dlfcn.h>
#include <errno.h>
#include <gnu/libc-version.h>
#include <malloc.h>
#include <stdint.h>
#include <unistd.h>

/* The compiler may neither see through a size nor drop a pair of calls. */
static void *volatile sink;
static volatile size_t too_large = (size_t)PTRDIFF_MAX + 1;
static volatile size_t almost = (size_t)PTRDIFF_MAX - 4096;

static int is_aligned(void *block, size_t alignment) { return (uintptr_t)block % alignment == 0; }

static void lengths_and_contents(void)
{
    for (size_t size = 0; size < 5000; size++) {
        unsigned char *block = malloc(size);
        CHECK(block && is_aligned(block, 16) && malloc_usable_size(block) >= size);
        fill(block, malloc_usable_size(block), (unsigned)size);
        unsigned char *other = malloc(size);
        fill(other, size, 77);
        CHECK(is_filled(block, malloc_usable_size(block), (unsigned)size));
        free(other);
        free(block);
    }
    for (size_t size = 4000; size < (64 << 20); size += size / 3) {
        unsigned char *block = malloc(size);
        CHECK(block && is_aligned(block, 16) && malloc_usable_size(block) >= size);
        block[0] = block[size - 1] = 1;
        free(block);
    }
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    void *first = malloc(0), *second = malloc(0);
    CHECK(first && second && first != second);
    free(first);
    free(second);
}

static void zeroed(void)
{
    for (int round = 0; round < 3; round++)
        for (size_t size = 1; size < (3 << 20); size += size / 2 + 1) {
            unsigned char *block = calloc(size / 8 + 1, 8);
            CHECK(block && is_aligned(block, 16));
            for (size_t index = 0; index < size; index++)
                CHECK(block[index] == 0);
            memset(block, 0xff, size);
            free(block);
        }
    void *nothing = calloc(0, 8);
    CHECK(nothing);
    free(nothing);
}

static void resized(void)
{
    static const size_t sizes[] = {1, 16, 17, 24, 100, 1024, 1025, 30000, 40000, 70000, 200000, 3 << 20};
    enum { COUNT = sizeof sizes / sizeof *sizes };
    for (int from = 0; from < COUNT; from++)
        for (int to = 0; to < COUNT; to++) {
            unsigned char *block = malloc(sizes[from]);
            fill(block, sizes[from], 3);
            size_t kept = sizes[from] < sizes[to] ? sizes[from] : sizes[to];
            block = to % 2 ? realloc(block, sizes[to]) : reallocarray(block, sizes[to], 1);
            CHECK(block && is_aligned(block, 16) && malloc_usable_size(block) >= sizes[to]);
            CHECK(is_filled(block, kept, 3));
            fill(block, sizes[to], 4);
            free(block);
        }
    void *block = realloc(NULL, 10);
    CHECK(block);
    CHECK(realloc(block, 0) == NULL); /* it was freed */
    unsigned char *grown = NULL;
    for (size_t size = 1; size < 100000; size += 13) {
        grown = realloc(grown, size);
        grown[size - 1] = (unsigned char)size;
    }
    for (size_t size = 1; size < 100000; size += 13)
        CHECK(grown[size - 1] == (unsigned char)size);
    free(grown);
}

static void aligned(void)
{
    long page = sysconf(_SC_PAGESIZE);
    for (size_t alignment = sizeof(void *); alignment <= (4 << 20); alignment *= 2)
        for (size_t size = 1; size < 300000; size += size * 2) {
            void *block = NULL;
            errno = 7;
            CHECK(posix_memalign(&block, alignment, size) == 0 && errno == 7);
            CHECK(is_aligned(block, alignment) && malloc_usable_size(block) >= size);
            fill(block, size, 1);
            void *other = aligned_alloc(alignment, size), *third = memalign(alignment, size);
            CHECK(is_aligned(other, alignment) && is_aligned(third, alignment));
            fill(other, size, 2);
            block = realloc(block, size + 100);
            CHECK(is_filled(block, size, 1) && is_filled(other, size, 2));
            free(block);
            free(other);
            free(third);
        }
    void *odd = memalign(48, 100); /* rounded up */
    CHECK(odd && is_aligned(odd, 64));
    free(odd);
    void *start = valloc(10), *whole = pvalloc(page + 1);
    CHECK(is_aligned(start, page) && is_aligned(whole, page));
    CHECK(malloc_usable_size(whole) >= 2 * (size_t)page);
    free(start);
    free(whole);
}

static void refused(void)
{
    void *block = malloc(100), *kept = (void *)1;
    fill(block, 100, 9);
#define REFUSED(call) (errno = 0, (call) == NULL && errno == ENOMEM)
    CHECK(REFUSED(sink = malloc(too_large)));
    CHECK(REFUSED(sink = malloc(almost)));
    CHECK(REFUSED(sink = malloc(SIZE_MAX - too_large + too_large)));
    CHECK(REFUSED(sink = calloc(too_large, 4)));
    CHECK(REFUSED(sink = calloc(almost, 1)));
    CHECK(REFUSED(sink = realloc(block, too_large)));
    CHECK(REFUSED(sink = realloc(block, almost)));
    CHECK(REFUSED(sink = reallocarray(block, too_large, 3)));
    CHECK(REFUSED(sink = aligned_alloc(64, almost)));
    CHECK(REFUSED(sink = memalign(64, too_large)));
    CHECK(REFUSED(sink = valloc(too_large)));
    CHECK(REFUSED(sink = pvalloc(SIZE_MAX - 5 + too_large - too_large)));
    CHECK(REFUSED(sink = memalign(too_large, 1)));
#define MEANINGLESS(call) (errno = 0, (call) == NULL && errno == EINVAL)
    /* More than the largest power of two. */
    CHECK(MEANINGLESS(sink = memalign(too_large + 1, 1)));
    CHECK(MEANINGLESS(sink = memalign(SIZE_MAX - too_large + too_large, 1)));
    /* As the C library that is there has it. */
    int refuses = strverscmp(gnu_get_libc_version(), "2.38") >= 0;
    static const size_t odd[] = {0, 3, 48, 4097};
    for (int index = 0; index < 4; index++) {
        errno = 0;
        sink = aligned_alloc(odd[index], 100);
        CHECK(refuses ? !sink && errno == EINVAL : sink && is_aligned(sink, odd[index] > 48 ? 8192 : 16));
        free(sink);
    }
    CHECK(is_filled(block, 100, 9));
    CHECK(posix_memalign(&kept, 64, almost) == ENOMEM && kept == (void *)1);
    errno = 7;
    CHECK(posix_memalign(&kept, 3, 1) == EINVAL && posix_memalign(&kept, 4, 1) == EINVAL);
    CHECK(posix_memalign(&kept, 0, 1) == EINVAL && posix_memalign(&kept, 24, 1) == EINVAL);
    CHECK(kept == (void *)1 && errno == 7);
    errno = 7;
    free(block);
    CHECK(errno == 7);
}

/* C23's, which older C libraries lack, and an old name that newer ones keep for old programs. */
static void other_frees(int is_preloaded)
{
    void (*cfree)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
    CHECK(!is_preloaded || cfree);
    if (cfree)
        cfree(malloc(100));
    void (*free_sized)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    void (*free_aligned_sized)(void *, size_t, size_t) =
        (void (*)(void *, size_t, size_t))dlsym(RTLD_DEFAULT, "free_aligned_sized");
    CHECK(!is_preloaded || (free_sized && free_aligned_sized));
    if (free_sized && free_aligned_sized)
        for (size_t size = 1; size < 100000; size += size / 2 + 1) {
            free_sized(malloc(size), size);
            free_aligned_sized(aligned_alloc(256, size), 256, size);
        }
}

static void told(int is_preloaded)
{
    void *blocks[50];
    for (int index = 0; index < 50; index++)
        memset(blocks[index] = malloc(1 << 20), 1, 1 << 20);
    struct mallinfo2 before = mallinfo2();
    for (int index = 0; index < 50; index++)
        free(blocks[index]);
    struct mallinfo2 after = mallinfo2();
    if (is_preloaded) {
        CHECK(before.uordblks >= 50 << 20 && before.hblks >= 50 && before.usmblks >= 50 << 20);
        CHECK(after.uordblks < 20 << 20 && after.hblks < 10);
        CHECK(malloc_trim(0) == 1 && malloc_trim(0) == 0);
        CHECK(mallopt(12345, 1) == 0);
    } else {
        malloc_trim(0);
    }
    CHECK(mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1 && mallopt(M_ARENA_MAX, 2) == 1);
    malloc_stats();
}

int main(int count, char **arguments)
{
    (void)arguments;
    int is_preloaded = count > 1;
    lengths_and_contents();
    zeroed();
    resized();
    aligned();
    refused();
    other_frees(is_preloaded);
    told(is_preloaded);
    puts("functions: passed");
    return 0;
}
