#include "inputs.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>

#include "error.h"
#include "picture.h"
#include "text.h"

namespace hgnetv2 {
namespace fs = std::filesystem;
namespace {

bool passed_over(const std::string& name) { return name[0] == '.' || name == "__MACOSX"; }

std::string head_of(const fs::path& path) {
    std::error_code error;
    if (!fs::is_regular_file(path, error)) return "";
    std::string head(16, '\0');
    std::ifstream file(path, std::ios::binary);
    file.read(head.data(), static_cast<std::streamsize>(head.size()));
    head.resize(static_cast<std::size_t>(file.gcount()));
    return head;
}

std::string ending_of(const fs::path& path) {
    std::string ending = path.extension().u8string();
    if (!ending.empty()) ending.erase(0, 1);
    std::transform(ending.begin(), ending.end(), ending.begin(),
                   [](unsigned char sign) { return static_cast<char>(std::tolower(sign)); });
    return ending;
}

void walk(const fs::path& folder, std::vector<fs::path>* files, std::vector<Input>* refused) {
    std::error_code error;
    fs::directory_iterator entries(folder, error);
    if (error)
        refused->push_back(
            {as_utf8(folder.u8string()), "", "the folder cannot be read: " + error.message()});
    for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
        if (passed_over(entries->path().filename().u8string())) continue;
        std::error_code ignored;
        if (!entries->is_directory(ignored))
            files->push_back(entries->path());
        else if (!entries->is_symlink(ignored))  // a link may lead back to where it is
            walk(entries->path(), files, refused);
    }
}

}  // namespace

std::vector<Input> expand_input(const std::string& given) {
    const fs::path path = fs::u8path(given);
    std::error_code error;
    if (!fs::is_directory(path, error)) return {{as_utf8(given), given, ""}};
    std::vector<fs::path> files;
    std::vector<Input> found;
    // pathlib names files without a "./" or a "/" too many.
    fs::path folder = path.lexically_normal();
    if (!folder.has_filename() && folder.has_parent_path() && folder != folder.root_path())
        folder = folder.parent_path();
    walk(folder, &files, &found);
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) {
        const std::string ending = ending_of(file);
        const std::string own =
            folder == "." ? file.lexically_relative(folder).u8string() : file.u8string();
        if (claims_picture(ending, ending.empty() ? head_of(file) : ""))
            found.push_back({as_utf8(own), file.u8string(), ""});
        else if (ending == "tar")
            found.push_back({as_utf8(own), "",
                             "a tar archive is not read here: unpack it, or use hgnetv2 predict"});
    }
    if (found.empty())
        throw DataError("nothing to predict in " + printable(given) +
                        ": a folder needs image files (jpg jpeg jpe jfif png)");
    return found;
}

}  // namespace hgnetv2
