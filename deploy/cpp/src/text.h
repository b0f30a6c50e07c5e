#pragma once

#include <string>
#include <string_view>

namespace hgnetv2 {

// Text as Python writes it, so that lines are the same byte for byte. All is UTF-8.

/// A file's name, which may be any bytes: what is not UTF-8 is written \xe9.
std::string as_utf8(std::string_view bytes);

/// On one line, everything shown: what is not printable becomes Python's escape of it.
std::string printable(std::string_view text);

/// ``repr`` of a str.
std::string repr(std::string_view text);

/// ``repr`` of a float.
std::string repr(double value);

/// As ``json.dumps`` writes it, with what is not printable as \uXXXX.
std::string json_text(std::string_view text);

bool is_utf8(std::string_view text);
bool is_printable(std::string_view text);

}  // namespace hgnetv2
