#include "json.h"

#include "error.h"

namespace hgnetv2 {

nlohmann::json parse_object(const std::string& text, const std::string& where) {
    auto found = nlohmann::json::parse(text, nullptr, false);
    if (!found.is_object()) throw WeightsError(where + ": damaged, no JSON object");
    return found;
}

}  // namespace hgnetv2
