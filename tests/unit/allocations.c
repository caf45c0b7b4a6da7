/* Counts what is allocated: loaded before libc (LD_PRELOAD), read through ctypes. glibc's own names do the work. */
#include <errno.h>
#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

unsigned long allocations; /* since the start, by all threads */

#define COUNT() __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED)

void *malloc(size_t size) { return COUNT(), __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return COUNT(), __libc_calloc(count, size); }
void *realloc(void *at, size_t size) { return COUNT(), __libc_realloc(at, size); }
void *memalign(size_t align, size_t size) { return COUNT(), __libc_memalign(align, size); }
void *aligned_alloc(size_t align, size_t size) { return COUNT(), __libc_memalign(align, size); }

int posix_memalign(void **at, size_t align, size_t size)
{
    COUNT();
    *at = __libc_memalign(align, size);
    return *at ? 0 : ENOMEM;
}
