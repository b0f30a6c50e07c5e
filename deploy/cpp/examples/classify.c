/* The C library at work: example_classify FOLDER PICTURE...
 *
 *   cc classify.c $(pkg-config --cflags --libs hgnetv2) -o classify
 */
#include <hgnetv2.h>

#include <stdio.h>
#include <stdlib.h>

enum { TOPK = 5 };

/* The bytes of a file, to be freed; no bytes where it cannot be read. */
static hgnetv2_image read_image(const char* path) {
    hgnetv2_image image = {NULL, 0};
    FILE* file = fopen(path, "rb");
    if (file == NULL) return image;
    if (fseek(file, 0, SEEK_END) == 0) {
        const long size = ftell(file);
        char* bytes = size > 0 ? malloc((size_t)size) : NULL;
        rewind(file);
        if (bytes != NULL) {
            image.bytes = bytes;
            image.size = fread(bytes, 1, (size_t)size, file);
        }
    }
    fclose(file);
    return image;
}

int main(int count, char** values) {
    if (count < 3) {
        fprintf(stderr, "usage: %s FOLDER PICTURE...\n", values[0]);
        return HGNETV2_PARAMETER;
    }
    hgnetv2_model* model;
    const hgnetv2_status opened = hgnetv2_open(values[1], NULL, &model);
    if (opened != HGNETV2_OK) {
        fprintf(stderr, "%s\n", hgnetv2_error());
        return opened;
    }
    hgnetv2_status worst = HGNETV2_OK;
    for (int i = 2; i < count; ++i) {
        const hgnetv2_image image = read_image(values[i]);
        hgnetv2_answer answers[TOPK];
        hgnetv2_result result = {.answers = answers};
        const hgnetv2_status status = hgnetv2_classify(model, &image, 1, TOPK, &result);
        free((void*)image.bytes);
        if (status != HGNETV2_OK) {
            fprintf(stderr, "%s\n", hgnetv2_error());
            worst = status;
            break;
        }
        if (result.status != HGNETV2_OK) {
            fprintf(stderr, "%s: %s\n", values[i], result.reason);
            worst = result.status;
        }
        for (size_t k = 0; k < result.count; ++k)
            printf("%s\t%d\t%.5f\t%s\n", values[i], answers[k].class_id, answers[k].score,
                   answers[k].label);
    }
    hgnetv2_close(model);
    return worst;
}
