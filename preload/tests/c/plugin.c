/* What `loader` loads and unloads: allocates when it comes and frees when it goes. */
#include "check.h"

static void *mine;
void *plugin_make(size_t size);
void plugin_free(void *block);
char *plugin_copy(const char *text);

__attribute__((constructor)) static void load(void) { fill(mine = malloc(3000), 3000, 1); }

__attribute__((destructor)) static void unload(void)
{
    CHECK(is_filled(mine, 3000, 1));
    free(mine);
}

/* Thread-local data that is made at the first use on a thread: the C library allocates for it. */
static __thread char large[20000];

void *plugin_make(size_t size)
{
    large[size % sizeof large]++;
    void *block = malloc(size);
    fill(block, size, (unsigned)size);
    return block;
}

void plugin_free(void *block) { free(block); }

/* The C library allocates for whoever calls it, whatever finds the plugin's own free. */
char *plugin_copy(const char *text)
{
    free(strdup(text));
    return strdup(text);
}
