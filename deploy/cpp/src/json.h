#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace hgnetv2 {

/// A JSON object of an exported folder; WeightsError naming ``where`` for anything else.
nlohmann::json parse_object(const std::string& text, const std::string& where);

}  // namespace hgnetv2
