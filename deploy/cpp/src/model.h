#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine.h"
#include "preprocess.h"

namespace hgnetv2 {

struct Answer {
    int class_id;
    double score;
};

/// The answers for one picture, best first, or why there are none.
struct Outcome {
    std::vector<Answer> answers;
    std::string error;
};

/// Which classes of a picture are reported.
struct Choice {
    std::size_t topk;
    bool multi_label;
    std::vector<double> thresholds;  // of each class
};

/// The bytes of a regular file. DataError with the reason, free of the path.
std::string read_file(const std::filesystem::path& path);

/// Class names by number, from "id name" lines or from one name a line; see data/classmap.py.
std::vector<std::string> read_class_map(const std::filesystem::path& path);

/// The preprocess.json of an exported folder, or that file.
Preprocess open_preprocess(const std::filesystem::path& path);

/// An exported folder in an engine: what Python's load_engine gives.
class Model {
  public:
    /// ``path``: the folder, or a model file inside of it. Its self-test is run.
    Model(const std::filesystem::path& path, EngineOptions options);

    /// float32 [count, classes] of float32 [count, 3, height, width], in passes of the batch size.
    void logits(const float* images, std::size_t count, float* logits);

    /// The answers for the bytes of files, decoded by ``workers`` threads; the order is kept.
    std::vector<Outcome> classify(const std::vector<Bytes>& files, const Choice& choice,
                                  int workers);

    /// What the model's own card says of several labels and their thresholds.
    Choice choice(std::size_t topk, std::optional<double> threshold,
                  std::optional<bool> multi_label) const;

    const std::filesystem::path file;
    const Preprocess preprocess;
    std::vector<std::string> labels;
    bool multi_label = false;

    const Engine& engine() const { return *engine_; }
    std::size_t batch_size() const { return batch_size_; }

  private:
    void check_answers(const std::string& test, const std::string& precision);
    Outcome choose(const float* logits, const Choice& choice) const;
    std::size_t input_size() const {
        return std::size_t{3} * preprocess.height() * preprocess.width();
    }

    std::unique_ptr<Engine> engine_;
    std::size_t batch_size_;
    std::vector<double> thresholds_;
};

}  // namespace hgnetv2
