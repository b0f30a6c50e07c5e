// fuzz_pictures [COUNT [SEED]]: pictures of every kind, damaged at random, are read or refused; run
// under the sanitizers (HGNETV2_SANITIZE) every step outside of memory ends the program.

#include <cstdio>
#include <cstdlib>
#include <random>

#include "error.h"
#include "pictures.h"
#include "preprocess.h"

namespace {

using Random = std::mt19937;

std::size_t below(Random& random, std::size_t bound) { return random() % bound; }

/// One to eight changes: a byte, a bit, a run of bytes gone, doubled or from another file, an end.
std::string damaged(std::string file, const std::string& other, Random& random) {
    for (std::size_t left = 1 + below(random, 8); left > 0 && file.size() > 16; --left) {
        // Headers are short and decide much: half of the changes are among the first bytes.
        const bool early = below(random, 2) == 0;
        const std::size_t place =
            below(random, early ? std::min<std::size_t>(file.size(), 200) : file.size());
        const std::size_t run = std::min(below(random, 40), file.size() - place);
        switch (below(random, 6)) {
            case 0:
                file[place] = static_cast<char>(random());
                break;
            case 1:
                file[place] ^= static_cast<char>(1 << below(random, 8));
                break;
            case 2:
                file.erase(place, run);
                break;
            case 3:
                file.insert(place, file.substr(place, run));
                break;
            case 4:
                file.replace(place, run, other.substr(below(random, other.size()), run));
                break;
            default:
                file[place] = static_cast<char>(below(random, 2) == 0 ? 0xff : 0);
                break;
        }
    }
    if (below(random, 8) == 0) file.resize(below(random, file.size()) + 1);
    if (below(random, 4) != 0) repair_png(&file);  // else the checksums catch nearly all of it
    // Without an end marker nothing is decoded.
    if (below(random, 4) != 0) file += "\xff\xd9";
    if (below(random, 4) != 0) file += png_chunk("IEND", "");
    return file;
}

}  // namespace

int main(int count, char** values) {
    const long wanted = count > 1 ? std::atol(values[1]) : 2000;
    Random random(count > 2 ? static_cast<unsigned>(std::atol(values[2])) : 20);
    const hgnetv2::Preprocess views[] = {
        {R"({"crop": 32, "resize_short": 36, "max_pixels": 300000})", "view"},
        {R"({"crop": [24, 48], "fit": "squash", "max_pixels": 300000, "background": [255, 255, 255],
             "depth": 12})",
         "view"},
        {R"({"crop": 32, "fit": "pad", "max_pixels": 300000, "interpolation": "lanczos",
             "depth": [100, 3000]})",
         "view"},
        {R"({"crop": 32, "resize_short": 32, "max_pixels": 300000, "interpolation": "nearest"})",
         "view"}};
    const auto seeds = make_pictures();
    std::vector<float> tensor(3 * 32 * 48);
    long read = 0;
    for (long i = 0; i < wanted; ++i) {
        const std::string file =
            damaged(seeds[below(random, seeds.size())], seeds[below(random, seeds.size())], random);
        const auto& view = views[i % 4];
        try {
            const auto picture =
                view.pixels({reinterpret_cast<const std::uint8_t*>(file.data()), file.size()});
            view.scale(picture, tensor.data());
            ++read;
        } catch (const hgnetv2::DataError&) {  // a reason, as it should be; all else ends the run
        }
    }
    std::printf("%ld pictures: %ld read, %ld refused\n", wanted, read, wanted - read);
    return 0;
}
