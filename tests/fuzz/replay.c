/* In the place of libFuzzer, for compilers without it: runs files through the target, and prints what each came to. */
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

/* Only libFuzzer mutates. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t limit) {
	(void)data;
	return size < limit ? size : limit;
}

int main(int argc, char **argv) {
	LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++) {
		FILE *file = fopen(argv[i], "rb");
		if (!file || fseek(file, 0, SEEK_END) < 0)
			return 2;
		size_t size = (size_t)ftell(file);
		uint8_t *data = malloc(size + !size); /* exactly, for the sanitizer */
		rewind(file);
		if (!data || fread(data, 1, size, file) != size)
			return 2;
		LLVMFuzzerTestOneInput(data, size);
		printf("%d %s\n", outcome, argv[i]);
		fflush(stdout);
		free(data);
		fclose(file);
	}
	return 0;
}
