/* Buffers that grow by realloc, a little at a time, small ones and now and then a large one. */
#include "pattern.h"

int main(int count, char **arguments)
{
    int rounds = count > 1 ? atoi(arguments[1]) : 4000;
    uint64_t sum = 0;
    for (int round = 0; round < rounds; round++) {
        size_t most = round % 100 == 0 ? 4 << 20 : 20000, capacity = 16, length = 0;
        char *buffer = must(malloc(capacity));
        while (length < most) {
            if (length + 100 > capacity)
                buffer = must(realloc(buffer, capacity += capacity / 2));
            memset(buffer + length, round, 100 < capacity - length ? 100 : capacity - length);
            length += 100;
        }
        sum += (unsigned char)buffer[length / 2];
        buffer = realloc(buffer, length / 2);
        free(buffer);
    }
    return finish(sum);
}
