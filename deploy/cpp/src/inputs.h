#pragma once

#include <string>
#include <vector>

namespace hgnetv2 {

/// One thing to classify: the name that its row bears, and a path, or why it cannot be read.
struct Input {
    std::string name, path, refused;
};

/// The pictures that ``given`` stands for, in order: those of a folder (all below it, sorted, what
/// is hidden passed over), or the file itself. A missing one is kept, so that its row can say so.
/// DataError for a folder without pictures.
std::vector<Input> expand_input(const std::string& given);

}  // namespace hgnetv2
