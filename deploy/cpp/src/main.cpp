// hgnetv2_predict: the command line, with the options and lines of `hgnetv2 predict`.

#include <cstdio>
#include <fstream>
#include <iostream>
#include <limits>
#include <sstream>

#include "error.h"
#include "inputs.h"
#include "model.h"
#include "text.h"

namespace hgnetv2 {
namespace {

namespace fs = std::filesystem;

constexpr int decoding_threads = 2;

constexpr const char* help = R"(Usage: hgnetv2_predict --model MODEL [OPTIONS] INPUTS...

Classify pictures (JPEG, PNG): files and folders. Every input has its row, in order, a bad one with
the reason.

Options:
  --model PATH          The exported folder, or a model file inside of it.
  --engine NAME         )";
constexpr const char* more_help = R"(
  --device NAME         auto, cpu or gpu; auto is what the engine prefers.
  --topk N              Classes shown per image; 5, or all with several labels.
  --threshold SCORE     Lowest score that is shown; 0, or with several labels what the model says.
  --multi-label, --single-label
                        A score for each class by itself, or not; else as the model says.
  --class-map FILE      Names in place of the model's own: 'id name' lines, or one name a line.
  --batch-size N        Images of one pass; 1 by default.
  --threads N           CPU threads; 0: the engine's choice.
  --format NAME         predict_cls (the default), infer or jsonl; without it the ending of --out
                        decides.
  --out FILE            Write there instead of printing.
  --strict              Exit 3 when any image is bad, not only when all are.
  --help, --version
)";

struct Arguments {
    std::vector<std::string> inputs;
    std::string model, class_map, format, out;
    EngineOptions engine;
    std::optional<std::size_t> topk;
    std::optional<double> threshold;
    std::optional<bool> multi_label;
    bool strict = false, done = false;
};

std::string all_engines() {
    std::string names;
    for (const std::string& name : engine_names()) names += (names.empty() ? "" : ", ") + name;
    return names;
}

template <typename Number>
Number number(const std::string& option, const std::string& text, Number least, Number most) {
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    Number value{};
    if (!(stream >> value) || !stream.eof() || !(value >= least) || !(value <= most)) {
        std::ostringstream range;
        range << option << "=" << printable(text) << "; a number from " << least << " to " << most
              << " is needed";
        throw ParameterError(range.str());
    }
    return value;
}

Arguments parse(const std::vector<std::string>& given) {
    Arguments made;
    for (std::size_t i = 0; i < given.size(); ++i) {
        std::string name = given[i], value;
        if (name == "--") {
            made.inputs.insert(made.inputs.end(), given.begin() + i + 1, given.end());
            break;
        }
        if (name.size() < 2 || name[0] != '-') {
            made.inputs.push_back(name);
            continue;
        }
        if (name == "--strict") {
            made.strict = true;
        } else if (name == "--multi-label" || name == "--single-label") {
            made.multi_label = name == "--multi-label";
        } else if (name == "--help" || name == "-h") {
            std::cout << help << all_engines() << "; the first by default." << more_help;
            return made.done = true, made;
        } else if (name == "--version") {
            std::cout << "hgnetv2_predict " HGNETV2_VERSION " with " << all_engines() << "\n";
            return made.done = true, made;
        } else {
            if (const auto equals = name.find('='); equals != name.npos) {
                value = name.substr(equals + 1);
                name.resize(equals);
            } else if (i + 1 < given.size()) {
                value = given[++i];
            } else {
                throw ParameterError("option " + printable(name) + " needs a value (--help)");
            }
            constexpr int most = 1 << 16;
            if (name == "--model")
                made.model = value;
            else if (name == "--engine")
                made.engine.engine = value == "auto" ? "" : value;
            else if (name == "--device")
                made.engine.device = value == "auto" ? "" : value;
            else if (name == "--topk")
                made.topk = number<std::size_t>(name, value, 1, most);
            else if (name == "--threshold")
                made.threshold = number<double>(name, value, 0, 1);
            else if (name == "--class-map")
                made.class_map = value;
            else if (name == "--batch-size")
                made.engine.batch_size = number(name, value, 1, most);
            else if (name == "--threads")
                made.engine.threads = number(name, value, 0, 1024);
            else if (name == "--format")
                made.format = value;
            else if (name == "--out")
                made.out = value;
            else
                throw ParameterError("no such option: " + printable(name) + " (--help lists them)");
        }
    }
    if (made.model.empty()) throw ParameterError("--model is needed (--help)");
    if (made.inputs.empty()) throw ParameterError("images or folders are needed (--help)");
    const auto ending = fs::u8path(made.out).extension();
    if (made.format.empty() && !made.out.empty() && ending != ".txt" && ending != ".jsonl")
        throw ParameterError("unknown ending '" + printable(ending.u8string()) +
                             "'; choose one of .txt, .jsonl (--out, or --format ...)");
    if (made.format.empty()) made.format = ending == ".jsonl" ? "jsonl" : "predict_cls";
    if (made.format != "predict_cls" && made.format != "infer" && made.format != "jsonl")
        throw ParameterError("unknown format '" + printable(made.format) +
                             "'; choose one of predict_cls, infer, jsonl (--format)");
    return made;
}

/// The three ways to write a row, as deployment/prediction_formats.py has them.
class Writer {
  public:
    Writer(std::ostream& out, std::string format, const std::vector<std::string>& names)
        : out_(out), format_(std::move(format)), names_(names) {
        if (format_ == "infer") out_ << "[";
    }

    void row(const std::string& name, const Outcome& outcome) {
        if (format_ == "predict_cls") {
            const auto cut = name.find_last_of('/');
            out_ << printable(cut == name.npos ? name : name.substr(cut + 1)) << ":    ";
            if (!outcome.error.empty()) {
                out_ << "error: " << printable(outcome.error) << "\n";
            } else {
                out_ << "class id(s): [" << ids(outcome) << "], score(s): ["
                     << joined(outcome, [](const Answer& a) { return fixed(a.score, 2); })
                     << "], label_name(s): ["
                     << joined(outcome, [&](const Answer& a) { return repr(names_[a.class_id]); })
                     << "]\n";
            }
        } else if (format_ == "infer") {
            out_ << (first_ ? "" : ", ") << "{'class_ids': [" << ids(outcome) << "], 'scores': ["
                 << joined(outcome,
                           [](const Answer& a) { return repr(std::stod(fixed(a.score, 5))); })
                 << "], 'file_name': " << repr(name) << ", 'label_names': ["
                 << joined(outcome, [&](const Answer& a) { return repr(names_[a.class_id]); })
                 << "]";
            if (!outcome.error.empty()) out_ << ", 'error': " << repr(outcome.error);
            out_ << "}";
        } else {
            out_ << "{\"class_ids\": [" << ids(outcome) << "], \"scores\": ["
                 << joined(outcome, [](const Answer& a) { return repr(a.score); })
                 << "], \"file_name\": " << json_text(name) << ", \"label_names\": ["
                 << joined(outcome, [&](const Answer& a) { return json_text(names_[a.class_id]); })
                 << "]";
            if (!outcome.error.empty()) out_ << ", \"error\": " << json_text(outcome.error);
            out_ << "}\n";
        }
        first_ = false;
    }

    void end() {
        if (format_ == "infer") out_ << "]\n";
        out_.flush();
        if (!out_)
            throw ParameterError("the answers cannot be written (--out, or standard output)");
    }

  private:
    static std::string fixed(double value, int digits) {
        char text[40];
        std::snprintf(text, sizeof text, "%.*f", digits, value);
        return text;
    }

    template <typename Show> static std::string joined(const Outcome& outcome, Show show) {
        std::string made;
        for (const Answer& answer : outcome.answers)
            made += (made.empty() ? "" : ", ") + show(answer);
        return made;
    }

    static std::string ids(const Outcome& outcome) {
        return joined(outcome, [](const Answer& a) { return std::to_string(a.class_id); });
    }

    std::ostream& out_;
    const std::string format_;
    const std::vector<std::string>& names_;
    bool first_ = true;
};

int predict(const Arguments& given) {
    std::vector<Input> inputs;
    for (const std::string& one : given.inputs)
        for (Input& input : expand_input(one)) inputs.push_back(std::move(input));
    std::vector<std::string> names;
    if (!given.class_map.empty()) names = read_class_map(fs::u8path(given.class_map));
    std::ofstream file;
    if (!given.out.empty()) {
        file.open(fs::u8path(given.out), std::ios::binary);
        if (!file) throw ParameterError("--out " + printable(given.out) + " cannot be written");
    }
    EngineOptions options = given.engine;
    options.batch_size = static_cast<int>(std::min<std::size_t>(options.batch_size, inputs.size()));
    Model model(fs::u8path(given.model), options);
    if (given.class_map.empty()) names = model.labels;
    if (names.size() != model.labels.size())
        throw ParameterError(std::to_string(names.size()) + " label names for the " +
                             std::to_string(model.labels.size()) + " classes of " + given.model);
    const bool several = given.multi_label.value_or(model.multi_label);
    const auto topk = given.topk.value_or(several ? names.size() : 5);
    const Choice choice = model.choice(topk, given.threshold, given.multi_label);

    Writer writer(given.out.empty() ? std::cout : file, given.format, names);
    std::size_t bad = 0;
    std::string first_bad;
    for (std::size_t begin = 0; begin < inputs.size(); begin += model.batch_size()) {
        const std::size_t end = std::min(begin + model.batch_size(), inputs.size());
        std::vector<std::string> contents(end - begin);
        std::vector<Bytes> files;
        for (std::size_t i = begin; i < end; ++i) {
            Input& input = inputs[i];
            try {
                if (input.refused.empty()) contents[i - begin] = read_file(fs::u8path(input.path));
            } catch (const DataError& error) {
                input.refused = error.what();
            }
            const auto& content = contents[i - begin];
            files.push_back(
                {reinterpret_cast<const std::uint8_t*>(content.data()), content.size()});
        }
        const auto outcomes = model.classify(files, choice, decoding_threads);
        for (std::size_t i = begin; i < end; ++i) {
            Outcome outcome = outcomes[i - begin];
            if (!inputs[i].refused.empty()) outcome = {{}, inputs[i].refused};
            if (!outcome.error.empty()) {
                const auto line = printable(inputs[i].name) + ": " + printable(outcome.error);
                std::cerr << line << "\n";
                if (bad++ == 0) first_bad = line;
            }
            writer.row(inputs[i].name, outcome);
        }
    }
    writer.end();
    if (!given.out.empty())
        std::cerr << inputs.size() << " rows in " << printable(given.out) << ", " << bad
                  << " of them bad\n";
    if (bad > 0 && (given.strict || bad == inputs.size()))
        throw DataError(std::to_string(bad) + " of " + std::to_string(inputs.size()) +
                        " inputs could not be predicted; the first: " + first_bad);
    return 0;
}

int run(const std::vector<std::string>& given) {
    try {
        const Arguments arguments = parse(given);
        return arguments.done ? 0 : predict(arguments);
    } catch (const Error& error) {
        std::cerr << printable(error.what()) << "\n";
        return error.code;
    } catch (const std::bad_alloc&) {
        std::cerr << "there is not memory enough; a smaller --batch-size needs less\n";
        return 1;
    } catch (const std::exception& error) {
        std::cerr << one_line(error.what()) << "\n";
        return 1;
    }
}

}  // namespace
}  // namespace hgnetv2

int main(int count, char** values) {
    return hgnetv2::run(std::vector<std::string>(values + 1, values + count));
}
