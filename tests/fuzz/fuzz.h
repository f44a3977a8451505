/* Entry points that libFuzzer knows by name. */
#ifndef DUNNAGE_FUZZ_H
#define DUNNAGE_FUZZ_H

#include <stddef.h>
#include <stdint.h>

extern int outcome; /* of the last input: was it accepted? */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t limit, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t limit);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#endif
