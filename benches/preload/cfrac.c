/* cfrac-like: factoring by continued fractions makes and drops numbers of a few words all the time,
   each the result of an operation on others. Here: sums, products and remainders of such numbers. */
#include "pattern.h"

typedef struct { int length; uint32_t digits[]; } Number;

static Number *make(int length)
{
    Number *number = must(malloc(sizeof(Number) + (size_t)length * sizeof(uint32_t)));
    number->length = length;
    return number;
}

static Number *product(const Number *a, const Number *b)
{
    Number *result = make(a->length + b->length);
    memset(result->digits, 0, (size_t)result->length * sizeof(uint32_t));
    for (int i = 0; i < a->length; i++) {
        uint64_t carry = 0;
        for (int j = 0; j < b->length; j++) {
            carry += (uint64_t)a->digits[i] * b->digits[j] + result->digits[i + j];
            result->digits[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
        result->digits[i + b->length] = (uint32_t)carry;
    }
    return result;
}

static Number *low_part(const Number *a, int length)
{
    if (length > a->length)
        length = a->length;
    Number *result = make(length);
    memcpy(result->digits, a->digits, (size_t)length * sizeof(uint32_t));
    return result;
}

static Number *sum(const Number *a, const Number *b)
{
    const Number *longer = a->length >= b->length ? a : b, *shorter = longer == a ? b : a;
    Number *result = make(longer->length + 1);
    uint64_t carry = 0;
    for (int i = 0; i < longer->length; i++) {
        carry += (uint64_t)longer->digits[i] + (i < shorter->length ? shorter->digits[i] : 0);
        result->digits[i] = (uint32_t)carry;
        carry >>= 32;
    }
    result->digits[longer->length] = (uint32_t)carry;
    return result;
}

int main(int count, char **arguments)
{
    int rounds = count > 1 ? atoi(arguments[1]) : 3000000;
    enum { KEPT = 64 };
    Number *kept[KEPT];
    uint64_t random = 42, checksum = 0;
    for (int i = 0; i < KEPT; i++) {
        kept[i] = make(1 + i % 6);
        for (int j = 0; j < kept[i]->length; j++)
            kept[i]->digits[j] = (uint32_t)next_random(&random);
    }
    for (int round = 0; round < rounds; round++) {
        uint64_t number = next_random(&random);
        Number *a = kept[number % KEPT], *b = kept[number / KEPT % KEPT];
        Number *both = product(a, b), *more = sum(both, a);
        Number *next = low_part(more, 1 + (int)(number >> 40) % 6);
        free(both);
        free(more);
        checksum += next->digits[0];
        free(kept[number % KEPT]);
        kept[number % KEPT] = next;
    }
    return finish(checksum);
}
