#pragma once

#include <stdexcept>
#include <string>

namespace hgnetv2 {

/// What goes wrong, in one line; the code is the exit code, as in errors.py.
class Error : public std::runtime_error {
  public:
    Error(int code, const std::string& message) : std::runtime_error(message), code(code) {}
    const int code;
};

struct ParameterError : Error {
    explicit ParameterError(const std::string& message) : Error(2, message) {}
};

/// Of one picture: a row has its reason, the others go on.
struct DataError : Error {
    explicit DataError(const std::string& message) : Error(3, message) {}
};

struct WeightsError : Error {
    explicit WeightsError(const std::string& message) : Error(4, message) {}
};

}  // namespace hgnetv2
