#include "model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <sstream>
#include <thread>

#include "error.h"
#include "json.h"
#include "text.h"

namespace hgnetv2 {
namespace fs = std::filesystem;
namespace {

constexpr std::uintmax_t most_json = 8 << 20;
constexpr std::uintmax_t most_bytes = 1 << 30;
constexpr double neutral_threshold = 0.5;

/// Root mean square of the logits' distance over their standard deviation, by precision, that an
/// engine may be off in the self-test (deployment/self_test.py).
const std::map<std::string, double> allowed_distance = {
    {"fp32", 1e-3}, {"tf32", 0.02}, {"fp16", 0.05}, {"bf16", 0.2}, {"int8", 0.05}};

/// A text file of an exported folder.
std::string read_text(const fs::path& path) {
    std::error_code error;
    if (fs::is_regular_file(path, error) && fs::file_size(path, error) > most_json)
        throw WeightsError(path.u8string() + ": larger than any of its kind (8 MiB)");
    try {
        return read_file(path);
    } catch (const DataError& reason) {
        throw WeightsError(path.u8string() + ": " + reason.what());
    }
}

fs::path folder_of(const fs::path& path) {
    std::error_code error;
    if (fs::is_directory(path, error)) return path;
    return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

fs::path model_file(const fs::path& path, const std::string& engine) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
        if (!fs::is_regular_file(path, error))
            throw WeightsError(path.u8string() + ": no such file or folder (--model)");
        return path;
    }
    const fs::path file = path / (engine == "tensorrt" ? "model.engine" : "model.onnx");
    if (!fs::is_regular_file(file, error))
        throw WeightsError(path.u8string() + " has no " + file.filename().u8string() +
                           "; export with write_bundle, or name a model file (--model)");
    return file;
}

/// Raises unless the fields of an ONNX file lead to its end, with a graph among them: of a file
/// that is cut or none at all runtimes print pages, and some stop the program.
void require_whole_onnx(const fs::path& path) {
    constexpr std::uint64_t varint = 0, bytes = 2, graph = 7;
    std::ifstream file(path, std::ios::binary);
    const std::uint64_t size = fs::file_size(path);
    const auto number = [&file] {
        std::uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const int byte = file.get();
            if (byte < 0) break;
            value |= std::uint64_t{byte & 0x7fu} << shift;
            if (byte < 0x80) return value;
        }
        file.setstate(std::ios::failbit);
        return value;
    };
    bool has_graph = false;
    std::uint64_t place = 0;
    while (file && place < size) {
        const std::uint64_t key = number(), value = number();
        place = file ? static_cast<std::uint64_t>(file.tellg()) : 0;
        if (key % 8 != varint && key % 8 != bytes) break;
        if (key % 8 == varint) continue;
        if (value > size - place) break;
        has_graph = has_graph || key / 8 == graph;
        place += value;
        file.seekg(static_cast<std::streamoff>(place));
    }
    if (!file || place != size || !has_graph)
        throw WeightsError(path.u8string() + ": no ONNX file, or not all of one");
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        lines.push_back(line);
    }
    return lines;
}

std::string two_digits(double value) {
    char text[40];
    std::snprintf(text, sizeof text, "%.2g", value);
    return text;
}

std::string text_entry(const nlohmann::json& object, const std::string& key) {
    return object.contains(key) && object[key].is_string() ? object[key].get<std::string>() : "";
}

/// uint8 pictures by formula, as self_test_images of Python makes them.
Picture self_test_picture(std::uint32_t* state, int height, int width) {
    constexpr int grid = 8;
    int values[grid][grid][3];
    for (auto& row : values)
        for (auto& cell : row)
            for (int& value : cell) {
                *state = *state * 1664525u + 1013904223u;
                value = static_cast<int>(*state >> 24);
            }
    const auto cell = [](int i, int edge) {
        const std::int64_t at = std::int64_t{i} * (grid - 1) * 256 / std::max(edge - 1, 1);
        const int low = static_cast<int>(std::min<std::int64_t>(at / 256, grid - 2));
        return std::pair(low, static_cast<int>(at - low * 256));
    };
    Picture picture(width, height);
    for (int y = 0; y < height; ++y) {
        const auto [upper, down] = cell(y, height);
        for (int x = 0; x < width; ++x) {
            const auto [left, across] = cell(x, width);
            for (int i = 0; i < 3; ++i) {
                const auto between = [&, down = down](int column) {
                    return values[upper][column][i] * (256 - down) +
                           values[upper + 1][column][i] * down;
                };
                picture.row(y)[3 * x + i] = static_cast<std::uint8_t>(
                    (between(left) * (256 - across) + between(left + 1) * across) >> 16);
            }
        }
    }
    return picture;
}

}  // namespace

std::string read_file(const fs::path& path) {
    std::error_code error;
    const auto status = fs::status(path, error);
    if (status.type() == fs::file_type::not_found || status.type() == fs::file_type::none)
        throw DataError("no such file");
    if (fs::is_directory(status)) throw DataError("is a folder");
    // A pipe or a device is refused without being opened: it might never answer.
    if (!fs::is_regular_file(status)) throw DataError("not a regular file");
    std::ifstream file(path, std::ios::binary);
    if (!file) throw DataError("no permission to read the file");
    const auto size = fs::file_size(path, error);
    if (!error && size > most_bytes)
        throw DataError("larger than any picture that is allowed (1 GiB)");
    std::string content(error ? 0 : size, '\0');
    file.read(content.data(), static_cast<std::streamsize>(content.size()));
    if (error || static_cast<std::size_t>(file.gcount()) != content.size())
        throw DataError("cannot be read to its end");
    return content;
}

std::vector<std::string> read_class_map(const fs::path& path) {
    const auto where = path.u8string();
    std::string text;
    try {
        text = read_file(path);
    } catch (const DataError& error) {
        throw DataError(where + ": " + error.what());
    }
    if (text.compare(0, 3, "\xef\xbb\xbf") == 0) text.erase(0, 3);
    std::vector<std::string> names;
    std::map<std::size_t, std::string> numbered;
    for (const std::string& line : lines_of(text)) {
        const auto start = line.find_first_not_of(" \t");
        if (start == line.npos) continue;
        const auto name = line.substr(start, line.find_last_not_of(" \t") + 1 - start);
        if (!is_printable(name))
            throw DataError(where + ": class name " + repr(name.substr(0, 80)) +
                            " is not UTF-8 or has a control character");
        names.push_back(name);
        const auto digits = line.find_first_not_of("0123456789");
        if (digits == 0 || digits == line.npos || digits > 9) continue;
        const auto rest = line.find_first_not_of(" \t", digits);
        if (rest != digits + 1) continue;
        if (!numbered
                 .emplace(std::stoul(line.substr(0, digits)),
                          line.substr(rest, line.find_last_not_of(" \t") + 1 - rest))
                 .second)
            throw DataError(where + ": class " + line.substr(0, digits) +
                            " is named twice; keep one line");
    }
    if (names.empty() || numbered.empty()) {
        if (names.empty()) throw DataError(where + ": 0 classes; one per line");
        return names;
    }
    if (numbered.size() != names.size() || numbered.rbegin()->first != names.size() - 1)
        throw DataError(where + ": number the classes from 0 without a gap, one per line, or none");
    std::transform(numbered.begin(), numbered.end(), names.begin(),
                   [](const auto& entry) { return entry.second; });
    return names;
}

Preprocess open_preprocess(const fs::path& path) {
    std::error_code error;
    const fs::path file = fs::is_directory(path, error) ? path / "preprocess.json" : path;
    return Preprocess(read_text(file), file.u8string());
}

Model::Model(const fs::path& path, EngineOptions options)
    : file(model_file(path, options.engine)),
      preprocess(open_preprocess(folder_of(path))),
      batch_size_(static_cast<std::size_t>(options.batch_size)) {
    const fs::path folder = folder_of(path);
    labels = lines_of(read_text(folder / "labels.txt"));
    nlohmann::json manifest = nlohmann::json::object();
    std::error_code error;
    if (fs::exists(folder / "manifest.json", error))
        manifest = parse_object(read_text(folder / "manifest.json"),
                                (folder / "manifest.json").u8string());
    options.height = preprocess.height();
    options.width = preprocess.width();
    if (file.extension() == ".onnx") require_whole_onnx(file);
    engine_ = open_engine(file.u8string(), options);
    if (static_cast<std::size_t>(engine_->classes) != labels.size())
        throw WeightsError(file.u8string() + " has " + std::to_string(engine_->classes) +
                           " outputs and " + std::to_string(labels.size()) +
                           " class names are given by labels.txt");
    multi_label = text_entry(manifest, "task") == "multi_label";
    if (const auto said = text_entry(manifest, "thresholds"); !said.empty()) {
        const auto list = nlohmann::json::parse(said, nullptr, false);
        const bool good = list.is_array() && list.size() == labels.size() &&
                          std::all_of(list.begin(), list.end(), [](const auto& value) {
                              return value.is_number() && value >= 0.0 && value <= 1.0;
                          });
        if (!good)
            throw WeightsError(folder.u8string() +
                               ": damaged card, 'thresholds': a number from 0 "
                               "to 1 is needed for each class");
        thresholds_ = list.get<std::vector<double>>();
    }
    auto& notes = engine_->notes;
    if (file.extension() != ".onnx")  // a plan does not say what it computes in: the widest limit
        notes = {{"probes", text_entry(manifest, "probes")}, {"precision", "bf16"}};
    if (!notes["probes"].empty())
        check_answers(notes["probes"], notes["precision"].empty() ? "fp32" : notes["precision"]);
}

void Model::check_answers(const std::string& test, const std::string& precision) {
    const auto damaged = [&]() -> WeightsError {
        return WeightsError(file.u8string() +
                            ": damaged card, its self-test (probes) is no table "
                            "of logits");
    };
    const auto said = parse_object(test, file.u8string());
    if (!said.contains("allowed") || !said["allowed"].is_number() || !said.contains("logits") ||
        !said["logits"].is_array() || said["logits"].empty() || said["logits"].size() > 8)
        throw damaged();
    std::vector<double> exact;
    for (const auto& row : said["logits"]) {
        if (!row.is_array() || row.size() != labels.size()) throw damaged();
        for (const auto& value : row) {
            if (!value.is_number()) throw damaged();
            exact.push_back(value.get<double>());
        }
    }
    const std::size_t count = said["logits"].size();
    std::vector<float> images(count * input_size()), found(exact.size());
    std::uint32_t state = 1;
    for (std::size_t i = 0; i < count; ++i)
        preprocess.scale(self_test_picture(&state, preprocess.height(), preprocess.width()),
                         images.data() + i * input_size());
    logits(images.data(), count, found.data());
    const double size = static_cast<double>(exact.size());
    const double mean = std::accumulate(exact.begin(), exact.end(), 0.0) / size;
    double error = 0, spread = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
        error += (found[i] - exact[i]) * (found[i] - exact[i]);
        spread += (exact[i] - mean) * (exact[i] - mean);
    }
    const double off = std::sqrt(error / spread);
    const auto known = allowed_distance.find(precision);
    const double allowed = std::max(said["allowed"].get<double>(),
                                    known == allowed_distance.end() ? 0.0 : known->second);
    if (!(off <= allowed))  // nor for NaN
        throw WeightsError(engine_->name + ": computes " + file.u8string() + " wrongly on " +
                           engine_->device + ": its " + precision + " logits of the " +
                           std::to_string(count) +
                           " images that the file has answers for are off "
                           "by " +
                           two_digits(off) + " of their standard deviation (allowed " +
                           two_digits(allowed) + "); take another engine or precision");
}

void Model::logits(const float* images, std::size_t count, float* logits) {
    const std::size_t classes = labels.size();
    std::vector<float> filled, rest;
    for (std::size_t done = 0; done < count; done += batch_size_) {
        const std::size_t some = std::min(batch_size_, count - done);
        const float* from = images + done * input_size();
        if (some == batch_size_) {
            engine_->run(from, logits + done * classes);
            continue;
        }
        filled.assign(from, from + some * input_size());
        filled.resize(batch_size_ * input_size());
        rest.resize(batch_size_ * classes);
        engine_->run(filled.data(), rest.data());
        std::copy_n(rest.data(), some * classes, logits + done * classes);
    }
}

Choice Model::choice(std::size_t topk, std::optional<double> threshold,
                     std::optional<bool> several) const {
    Choice made{topk, several.value_or(multi_label), {}};
    made.thresholds.assign(labels.size(), threshold.value_or(0.0));
    if (!threshold && made.multi_label) {
        made.thresholds.assign(labels.size(), neutral_threshold);
        if (!thresholds_.empty()) made.thresholds = thresholds_;
    }
    return made;
}

Outcome Model::choose(const float* logits, const Choice& choice) const {
    const std::size_t classes = labels.size();
    if (!std::all_of(logits, logits + classes, [](float value) { return std::isfinite(value); }))
        return {{}, "the model gives no answer: its logits are NaN or infinite"};
    std::vector<double> scores(logits, logits + classes);
    if (choice.multi_label) {
        for (double& score : scores) {
            const double small = std::exp(-std::abs(score));  // nothing overflows
            score = (score >= 0 ? 1.0 : small) / (1 + small);
        }
    } else {
        const double most = *std::max_element(scores.begin(), scores.end());
        for (double& score : scores) score = std::exp(score - most);
        const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
        for (double& score : scores) score /= sum;
    }
    std::vector<int> order(classes);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int left, int right) { return scores[left] > scores[right]; });
    Outcome outcome;
    for (std::size_t i = 0; i < std::min(choice.topk, classes); ++i)
        if (scores[order[i]] >= choice.thresholds[order[i]])
            outcome.answers.push_back({order[i], scores[order[i]]});
    return outcome;
}

std::vector<Outcome> Model::classify(const std::vector<Bytes>& files, const Choice& choice,
                                     int workers) {
    std::vector<Outcome> outcomes(files.size());
    std::vector<float> images;
    std::vector<float> found(batch_size_ * labels.size());
    for (std::size_t begin = 0; begin < files.size(); begin += batch_size_) {
        const std::size_t end = std::min(begin + batch_size_, files.size());
        images.resize((end - begin) * input_size());
        std::atomic<std::size_t> next{begin};
        const auto decode_some = [&] {
            for (std::size_t i = next++; i < end; i = next++) {
                try {
                    preprocess.scale(preprocess.pixels(files[i]),
                                     images.data() + (i - begin) * input_size());
                } catch (const DataError& error) {
                    outcomes[i].error = one_line(error.what());
                } catch (const std::bad_alloc&) {
                    outcomes[i].error = "there is not memory enough for it";
                }
            }
        };
        std::vector<std::thread> threads;
        const std::size_t helpers = std::min<std::size_t>(workers, end - begin);
        for (std::size_t i = 1; i < helpers; ++i) threads.emplace_back(decode_some);
        decode_some();
        for (std::thread& thread : threads) thread.join();

        std::vector<std::size_t> good;
        for (std::size_t i = begin; i < end; ++i) {
            if (!outcomes[i].error.empty()) continue;
            // One bad picture must not cost the others of its batch, nor be computed.
            if (good.size() != i - begin)
                std::copy_n(images.data() + (i - begin) * input_size(), input_size(),
                            images.data() + good.size() * input_size());
            good.push_back(i);
        }
        logits(images.data(), good.size(), found.data());
        for (std::size_t i = 0; i < good.size(); ++i)
            outcomes[good[i]] = choose(found.data() + i * labels.size(), choice);
    }
    return outcomes;
}

}  // namespace hgnetv2
