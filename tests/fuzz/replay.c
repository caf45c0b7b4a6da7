/* Runs a fuzz target over files, each in a process of its own, for compilers and machines without libFuzzer: replay FILE... */
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz.h"

static void run(const char *path)
{
    static uint8_t buffer[1 << 20];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    size_t size = fread(buffer, 1, sizeof buffer, file);
    fclose(file);
    uint8_t *exact = malloc(size ? size : 1); /* of its very size, so that the sanitizer sees its end */
    HOLD(exact);
    memcpy(exact, buffer, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

int main(int count, char **paths)
{
    int broken = count < 2; /* a replay of nothing shows nothing */
    for (int index = 1; index < count; index++) {
        int status = 1;
        pid_t child = fork();
        if (child == 0) {
            run(paths[index]);
            return 0;
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            fprintf(stderr, "see it again: %s %s\n", paths[0], paths[index]);
            broken++;
        }
    }
    printf("%s: %d of %d inputs hold\n", paths[0], count - 1 - broken, count - 1);
    return broken != 0;
}
