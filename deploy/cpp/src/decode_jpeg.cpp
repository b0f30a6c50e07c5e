// JPEG files by libjpeg-turbo, with Pillow's settings: its defaults.

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>

// libjpeg's header needs stdio's names before it.
#include <jpeglib.h>

#include "error.h"
#include "picture.h"

namespace hgnetv2 {
namespace {

constexpr std::uint8_t mark = 0xff, start_of_scan = 0xda, end_of_image = 0xd9;
constexpr int app1 = JPEG_APP0 + 1;

struct Errors {
    jpeg_error_mgr base;  // first: libjpeg hands back a pointer to it
    std::jmp_buf place;
    char text[JMSG_LENGTH_MAX];
};

[[noreturn]] void leave(j_common_ptr jpeg) {
    auto* errors = reinterpret_cast<Errors*>(jpeg->err);
    errors->base.format_message(jpeg, errors->text);
    std::longjmp(errors->place, 1);
}

// The whole file lies in memory: more than there is can never be had.
boolean no_more(j_decompress_ptr) { return FALSE; }
void nothing(j_decompress_ptr) {}
void silent(j_common_ptr) {}
void silent_level(j_common_ptr, int) {}

void skip(j_decompress_ptr jpeg, long count) {
    if (count <= 0) return;
    const auto skipped = std::min(static_cast<std::size_t>(count), jpeg->src->bytes_in_buffer);
    jpeg->src->next_input_byte += skipped;
    jpeg->src->bytes_in_buffer -= skipped;
}

/// One file being read. libjpeg reports errors by jumping back to the place named last, so the
/// functions that call it hold nothing that would have to be destroyed.
struct Reader {
    jpeg_decompress_struct jpeg{};
    jpeg_source_mgr source{};
    Errors errors{};

    explicit Reader(Bytes file) {
        jpeg.err = jpeg_std_error(&errors.base);
        errors.base.error_exit = leave;
        errors.base.output_message = silent;
        errors.base.emit_message = silent_level;  // damage that it can go on with, as Pillow does
        source = {file.data, file.size, nothing, no_more, skip, jpeg_resync_to_restart, nothing};
    }
    ~Reader() { jpeg_destroy_decompress(&jpeg); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    /// Whether the header could be read and the pixels are of a kind that is known.
    bool read_header() {
        if (setjmp(errors.place) != 0) return false;
        jpeg_create_decompress(&jpeg);
        jpeg.src = &source;
        jpeg_save_markers(&jpeg, app1, 0xffff);
        if (jpeg_read_header(&jpeg, TRUE) != JPEG_HEADER_OK)
            return fail("the file ends inside the header");
        if (jpeg.num_components == 2 || jpeg.num_components > 4)
            return fail("neither grey nor a colour: not 1, 3 or 4 components");
        jpeg.out_color_space = jpeg.num_components == 1   ? JCS_GRAYSCALE
                               : jpeg.num_components == 3 ? JCS_RGB
                                                          : JCS_CMYK;
        return true;
    }

    /// All pixels as red, green and blue; ``line`` has room for one row of the file.
    bool read_pixels(Picture* picture, std::uint8_t* line) {
        if (setjmp(errors.place) != 0) return false;
        if (!jpeg_start_decompress(&jpeg)) return fail("image file is truncated");
        while (jpeg.output_scanline < jpeg.output_height) {
            std::uint8_t* out = picture->row(static_cast<int>(jpeg.output_scanline));
            std::uint8_t* row = jpeg.num_components == 3 ? out : line;
            if (jpeg_read_scanlines(&jpeg, &row, 1) != 1) return fail("image file is truncated");
            if (jpeg.num_components == 1) repeat_grey(line, out);
            if (jpeg.num_components == 4) convert_cmyk(line, out);
        }
        jpeg_finish_decompress(&jpeg);  // what follows the last row may be damaged, too
        return true;
    }

  private:
    bool fail(const char* reason) {
        std::snprintf(errors.text, sizeof errors.text, "%s", reason);
        return false;
    }

    void repeat_grey(const std::uint8_t* line, std::uint8_t* out) const {
        for (unsigned x = 0; x < jpeg.output_width; ++x, out += 3) std::memset(out, line[x], 3);
    }

    /// Files store CMYK inverted, as Adobe began it; so the four are paper, not ink.
    void convert_cmyk(const std::uint8_t* line, std::uint8_t* out) const {
        for (unsigned x = 0; x < jpeg.output_width; ++x, line += 4, out += 3) {
            for (int channel = 0; channel < 3; ++channel) {
                const unsigned ink = (255u - line[channel]) * line[3] + 128;
                out[channel] = static_cast<std::uint8_t>(line[3] - ((ink + (ink >> 8)) >> 8));
            }
        }
    }
};

/// Whether an end marker follows the headers; a thumbnail in one of them has an end of its own.
bool has_end(Bytes file) {
    const std::uint8_t* data = file.data;
    std::size_t place = 2;
    while (place + 1 < file.size && data[place] == mark && data[place + 1] != start_of_scan) {
        const std::size_t length = place + 3 < file.size
                                       ? std::size_t{data[place + 2]} << 8 | data[place + 3]
                                   : place + 2 < file.size ? data[place + 2]
                                                           : 0;
        place += 2 + length;
    }
    for (std::size_t at = file.size; at >= place + 2; --at)
        if (data[at - 2] == mark && data[at - 1] == end_of_image) return true;
    return false;
}

int orientation(const jpeg_decompress_struct& jpeg) {
    using namespace std::string_literals;
    std::optional<std::string> exif, xmp;
    for (auto* marker = jpeg.marker_list; marker != nullptr; marker = marker->next) {
        const std::string text(reinterpret_cast<const char*>(marker->data), marker->data_length);
        const auto name = "http://ns.adobe.com/xap/1.0/\0"s;
        if (text.compare(0, 6, "Exif\0\0"s) == 0)
            exif = exif ? *exif + text.substr(6) : text;  // a long block is cut into several
        else if (text.compare(0, name.size(), name) == 0)
            xmp = text.substr(name.size());
    }
    return orientation_of(exif ? &*exif : nullptr, xmp ? &*xmp : nullptr);
}

}  // namespace

Picture decode_jpeg(Bytes file, const Decoding& decoding, int* turned) {
    const auto reader = std::make_unique<Reader>(file);
    if (!reader->read_header())
        throw DataError("damaged header: " + std::string(reader->errors.text));
    const auto& jpeg = reader->jpeg;
    check_pixels(jpeg.image_width, jpeg.image_height, decoding);
    if (!has_end(file))
        throw DataError("cannot be decoded: the file ends early, its end marker is missing");
    *turned = orientation(jpeg);
    Picture picture(static_cast<int>(jpeg.image_width), static_cast<int>(jpeg.image_height));
    std::vector<std::uint8_t> line(std::size_t{4} * jpeg.image_width);
    if (!reader->read_pixels(&picture, line.data()))
        throw DataError("cannot be decoded: " + std::string(reader->errors.text));
    return picture;
}

}  // namespace hgnetv2
