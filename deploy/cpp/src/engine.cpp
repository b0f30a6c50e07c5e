#include "engine.h"

#include "error.h"
#include "text.h"

namespace hgnetv2 {
namespace {

using Open = std::unique_ptr<Engine> (*)(const std::string&, const EngineOptions&);

const std::vector<std::pair<std::string, Open>>& engines() {
    static const std::vector<std::pair<std::string, Open>> all = {
#ifdef HGNETV2_OPENVINO
        {"openvino", open_openvino},
#endif
#ifdef HGNETV2_ONNXRUNTIME
        {"onnxruntime", open_onnxruntime},
#endif
#ifdef HGNETV2_TENSORRT
        {"tensorrt", open_tensorrt},
#endif
    };
    return all;
}

}  // namespace

std::vector<std::string> engine_names() {
    std::vector<std::string> names;
    for (const auto& [name, open] : engines()) names.push_back(name);
    return names;
}

std::unique_ptr<Engine> open_engine(const std::string& path, const EngineOptions& options) {
    if (!options.device.empty() && options.device != "cpu" && options.device != "gpu")
        throw ParameterError("unknown device '" + options.device + "'; choose one of cpu, gpu");
    std::string names;
    for (const auto& [name, open] : engines()) {
        if (options.engine.empty() || options.engine == name) return open(path, options);
        names += (names.empty() ? "" : ", ") + name;
    }
    throw ParameterError("unknown engine '" + printable(options.engine) + "'; this build has " +
                         (names.empty() ? "none" : names) +
                         " (cmake -DHGNETV2_OPENVINO=ON, -DHGNETV2_ONNXRUNTIME=ON or "
                         "-DHGNETV2_TENSORRT=ON adds another)");
}

std::string one_line(const std::string& message) {
    std::string line;
    for (const char sign : message) {
        const bool space = sign == ' ' || (sign >= '\t' && sign <= '\r');
        if (!space)
            line += sign;
        else if (!line.empty() && line.back() != ' ')
            line += ' ';
    }
    if (line.size() > 300) line = line.substr(0, 300) + "...";
    return printable(line.empty() ? "no message" : line);
}

}  // namespace hgnetv2
