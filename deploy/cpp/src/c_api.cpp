// The C library: exceptions become statuses, and nothing else.

#include "hgnetv2.h"

#include <cstdio>
#include <cstring>

#include "error.h"
#include "model.h"

struct hgnetv2_model {
    hgnetv2::Model model;
    // A model's preprocessing is lent out in the form that one opened alone has.
    hgnetv2_preprocess* preprocess;
};

struct hgnetv2_preprocess {
    hgnetv2::Preprocess preprocess;
};

namespace {

thread_local std::string last_error;

hgnetv2_status fail(int status, const std::string& reason) {
    last_error = reason;
    return static_cast<hgnetv2_status>(status);
}

/// What ``work`` does, with its exception as a status.
template <typename Work> hgnetv2_status guarded(Work work) {
    try {
        work();
        return HGNETV2_OK;
    } catch (const hgnetv2::Error& error) {
        return fail(error.code, error.what());
    } catch (const std::bad_alloc&) {
        return fail(HGNETV2_FAILED, "there is not memory enough");
    } catch (const std::exception& error) {
        return fail(HGNETV2_FAILED, hgnetv2::one_line(error.what()));
    }
}

void require(bool given, const char* what) {
    if (!given) throw hgnetv2::ParameterError(std::string(what) + " is NULL");
}

hgnetv2::Bytes bytes_of(const hgnetv2_image& image) {
    require(image.bytes != nullptr || image.size == 0, "image.bytes");
    return {static_cast<const std::uint8_t*>(image.bytes), image.size};
}

}  // namespace

const char* hgnetv2_error(void) { return last_error.c_str(); }

const char* hgnetv2_engines(void) {
    static const std::string names = [] {
        std::string all;
        for (const auto& name : hgnetv2::engine_names()) all += (all.empty() ? "" : " ") + name;
        return all;
    }();
    return names.c_str();
}

hgnetv2_status hgnetv2_open(const char* path, const hgnetv2_options* options,
                            hgnetv2_model** model) {
    return guarded([&] {
        require(path != nullptr && model != nullptr, "path or model");
        *model = nullptr;
        hgnetv2::EngineOptions wish;
        if (options != nullptr) {
            wish.engine = options->engine != nullptr ? options->engine : "";
            wish.device = options->device != nullptr ? options->device : "";
            wish.threads = options->threads;
            wish.batch_size = options->batch_size == 0 ? 1 : options->batch_size;
        }
        if (wish.threads < 0 || wish.threads > 1024 || wish.batch_size < 1 ||
            wish.batch_size > 65536)
            throw hgnetv2::ParameterError(
                "threads from 0 to 1024 and batch_size from 1 to 65536 "
                "are needed (hgnetv2_options)");
        auto made = std::make_unique<hgnetv2_model>(
            hgnetv2_model{hgnetv2::Model(std::filesystem::u8path(path), wish), nullptr});
        made->preprocess = new hgnetv2_preprocess{made->model.preprocess};
        *model = made.release();
    });
}

void hgnetv2_close(hgnetv2_model* model) {
    if (model != nullptr) delete model->preprocess;
    delete model;
}

size_t hgnetv2_num_classes(const hgnetv2_model* model) { return model->model.labels.size(); }

const char* hgnetv2_label(const hgnetv2_model* model, size_t class_id) {
    const auto& labels = model->model.labels;
    return class_id < labels.size() ? labels[class_id].c_str() : nullptr;
}

const hgnetv2_preprocess* hgnetv2_preprocess_of(const hgnetv2_model* model) {
    return model->preprocess;
}

hgnetv2_status hgnetv2_classify(hgnetv2_model* model, const hgnetv2_image* images, size_t count,
                                size_t topk, hgnetv2_result* results) {
    return guarded([&] {
        require(model != nullptr && (count == 0 || (images != nullptr && results != nullptr)),
                "model, images or results");
        std::vector<hgnetv2::Bytes> files;
        for (size_t i = 0; i < count; ++i) files.push_back(bytes_of(images[i]));
        const auto choice = model->model.choice(topk, std::nullopt, std::nullopt);
        const auto outcomes = model->model.classify(files, choice, 1);
        for (size_t i = 0; i < count; ++i) {
            const auto& outcome = outcomes[i];
            hgnetv2_result& result = results[i];
            result.status = outcome.error.empty() ? HGNETV2_OK : HGNETV2_DATA;
            std::snprintf(result.reason, sizeof result.reason, "%s", outcome.error.c_str());
            result.count = outcome.answers.size();
            for (size_t k = 0; k < result.count; ++k) {
                const auto& answer = outcome.answers[k];
                result.answers[k] = {answer.class_id, answer.score,
                                     hgnetv2_label(model, static_cast<size_t>(answer.class_id))};
            }
        }
    });
}

hgnetv2_status hgnetv2_logits(hgnetv2_model* model, const float* tensor, size_t count,
                              float* logits) {
    return guarded([&] {
        require(model != nullptr && (count == 0 || (tensor != nullptr && logits != nullptr)),
                "model, tensor or logits");
        model->model.logits(tensor, count, logits);
    });
}

hgnetv2_status hgnetv2_preprocess_open(const char* path, hgnetv2_preprocess** preprocess) {
    return guarded([&] {
        require(path != nullptr && preprocess != nullptr, "path or preprocess");
        *preprocess = nullptr;
        *preprocess =
            new hgnetv2_preprocess{hgnetv2::open_preprocess(std::filesystem::u8path(path))};
    });
}

void hgnetv2_preprocess_close(hgnetv2_preprocess* preprocess) { delete preprocess; }

void hgnetv2_input_size(const hgnetv2_preprocess* preprocess, size_t* height, size_t* width) {
    *height = static_cast<size_t>(preprocess->preprocess.height());
    *width = static_cast<size_t>(preprocess->preprocess.width());
}

hgnetv2_status hgnetv2_pixels(const hgnetv2_preprocess* preprocess, hgnetv2_image image,
                              uint8_t* pixels) {
    return guarded([&] {
        require(preprocess != nullptr && pixels != nullptr, "preprocess or pixels");
        const auto picture = preprocess->preprocess.pixels(bytes_of(image));
        std::copy(picture.rgb.begin(), picture.rgb.end(), pixels);
    });
}

hgnetv2_status hgnetv2_tensor(const hgnetv2_preprocess* preprocess, hgnetv2_image image,
                              float* tensor) {
    return guarded([&] {
        require(preprocess != nullptr && tensor != nullptr, "preprocess or tensor");
        preprocess->preprocess.scale(preprocess->preprocess.pixels(bytes_of(image)), tensor);
    });
}
