/* xmalloc: some threads only allocate, others only free, batches passing between them. */
#include "pattern.h"
#include <pthread.h>

enum { BATCH = 128, PAIRS = 2, ROOM = 64 };
static int batches = 15000;

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    void **queue[ROOM];
    int first, length;
} Channel;

static void send_batch(Channel *channel, void **batch)
{
    pthread_mutex_lock(&channel->lock);
    while (channel->length == ROOM)
        pthread_cond_wait(&channel->changed, &channel->lock);
    channel->queue[(channel->first + channel->length++) % ROOM] = batch;
    pthread_cond_broadcast(&channel->changed);
    pthread_mutex_unlock(&channel->lock);
}

static void **receive_batch(Channel *channel)
{
    pthread_mutex_lock(&channel->lock);
    while (!channel->length)
        pthread_cond_wait(&channel->changed, &channel->lock);
    void **batch = channel->queue[channel->first];
    channel->first = (channel->first + 1) % ROOM;
    channel->length--;
    pthread_cond_broadcast(&channel->changed);
    pthread_mutex_unlock(&channel->lock);
    return batch;
}

static void *allocate(void *argument)
{
    uint64_t random = (uintptr_t)argument | 1;
    for (int round = 0; round < batches; round++) {
        void **batch = must(malloc(BATCH * sizeof *batch));
        for (int i = 0; i < BATCH; i++)
            batch[i] = touched(16 + next_random(&random) % 400);
        send_batch(argument, batch);
    }
    return NULL;
}

static void *release(void *argument)
{
    for (int round = 0; round < batches; round++) {
        void **batch = receive_batch(argument);
        for (int i = 0; i < BATCH; i++)
            free(batch[i]);
        free(batch);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    if (count > 1)
        batches = atoi(arguments[1]);
    static Channel channels[PAIRS];
    pthread_t threads[2 * PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        pthread_mutex_init(&channels[i].lock, NULL);
        pthread_cond_init(&channels[i].changed, NULL);
        if (pthread_create(&threads[2 * i], NULL, allocate, &channels[i]) ||
            pthread_create(&threads[2 * i + 1], NULL, release, &channels[i]))
            abort();
    }
    for (int i = 0; i < 2 * PAIRS; i++)
        pthread_join(threads[i], NULL);
    return finish(0);
}
