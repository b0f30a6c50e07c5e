// PNG files by libpng: its raw values, which become RGB by the rules of data/decode.py.

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>

#include <png.h>

#include "error.h"
#include "picture.h"

namespace hgnetv2 {
namespace {

/// One file being read. libpng reports errors by jumping back, so the functions that call it hold
/// nothing that would have to be destroyed.
struct Reader {
    png_structp png = nullptr;
    png_infop info = nullptr;
    Bytes rest;
    char text[200] = "";
    png_uint_32 width = 0, height = 0;
    int depth = 0, colour = 0;

    explicit Reader(Bytes file) : rest(file) {
        png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, leave, silent);
        if (png != nullptr) info = png_create_info_struct(png);
        if (info == nullptr) throw std::bad_alloc();
    }
    ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    bool read_header() {
        if (setjmp(png_jmpbuf(png)) != 0) return false;
        png_set_read_fn(png, this, read);
        png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // check_pixels is the limit
        png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
        png_read_info(png, info);
        png_get_IHDR(png, info, &width, &height, &depth, &colour, nullptr, nullptr, nullptr);
        return true;
    }

    /// Bytes of a row, one pixel of less than 8 bits in a byte of its own.
    std::size_t unpack() {
        if (setjmp(png_jmpbuf(png)) != 0) return 0;
        png_set_packing(png);
        png_set_interlace_handling(png);
        png_read_update_info(png, info);
        return png_get_rowbytes(png, info);
    }

    bool read_pixels(png_bytepp rows) {
        if (setjmp(png_jmpbuf(png)) != 0) return false;
        png_read_image(png, rows);
        return true;
    }

    /// What follows the pixels may say how the picture was held; damage there costs nothing else.
    void read_end() {
        if (setjmp(png_jmpbuf(png)) == 0) png_read_end(png, info);
    }

  private:
    [[noreturn]] static void leave(png_structp png, png_const_charp message) {
        auto* self = static_cast<Reader*>(png_get_error_ptr(png));
        std::snprintf(self->text, sizeof self->text, "%s", message);
        png_longjmp(png, 1);
    }
    static void silent(png_structp, png_const_charp) {}
    static void read(png_structp png, png_bytep into, std::size_t count) {
        auto* self = static_cast<Reader*>(png_get_io_ptr(png));
        if (count > self->rest.size) png_error(png, "image file is truncated");
        std::memcpy(into, self->rest.data, count);
        self->rest = {self->rest.data + count, self->rest.size - count};
    }
};

/// Whether the chunks lead to a whole IEND; anything may follow it.
bool has_end(Bytes file) {
    for (std::size_t place = 8; place + 12 <= file.size;) {
        if (std::memcmp(file.data + place + 4, "IEND", 4) == 0) return true;
        std::size_t length = 0;
        for (int i = 0; i < 4; ++i) length = length << 8 | file.data[place + i];
        place += 12 + length;
    }
    return false;
}

/// From the values of a file to red, green, blue and alpha.
class Pixels {
  public:
    Pixels(const Reader& reader, const Depth& depth)
        : bits_(reader.depth), colour_(reader.colour), depth_(depth) {
        std::memset(palette_, 0, sizeof palette_);  // beyond the palette all is black
        for (auto& entry : palette_) entry[3] = 255;
        png_colorp colours = nullptr;
        int count = 0;
        if (png_get_PLTE(reader.png, reader.info, &colours, &count) != 0)
            for (int i = 0; i < std::min(count, 256); ++i)
                palette_[i][0] = colours[i].red, palette_[i][1] = colours[i].green,
                palette_[i][2] = colours[i].blue;
        png_bytep alphas = nullptr;
        png_color_16p clear = nullptr;
        if (png_get_tRNS(reader.png, reader.info, &alphas, &count, &clear) == 0) return;
        if (colour_ == PNG_COLOR_TYPE_PALETTE) {
            for (int i = 0; i < std::min(count, 256); ++i) palette_[i][3] = alphas[i];
        } else if (clear != nullptr && !(colour_ == PNG_COLOR_TYPE_GRAY && bits_ == 16)) {
            // Pillow shows no transparency of grey of 16 bits.
            const bool grey = colour_ == PNG_COLOR_TYPE_GRAY;
            const int values[] = {grey ? clear->gray : clear->red, clear->green, clear->blue};
            for (int i = 0; i < 3; ++i) {
                const int value = values[grey ? 0 : i];
                if (bits_ == 1)
                    clear_[i] = value != 0 ? 255 : 0;
                else if (bits_ == 16)
                    clear_[i] = value >> 8;
                else
                    clear_[i] = static_cast<std::uint8_t>((value & levels()) * (255 / levels()));
            }
            has_clear_ = true;
        }
    }

    /// The pixel at ``x`` of a row.
    std::array<std::uint8_t, 4> at(const std::uint8_t* row, std::size_t x) const {
        std::array<std::uint8_t, 4> pixel{};
        if (colour_ == PNG_COLOR_TYPE_PALETTE) {
            std::copy_n(palette_[row[x]], 4, pixel.begin());
            return pixel;
        }
        const bool grey = (colour_ & PNG_COLOR_MASK_COLOR) == 0;
        const bool alpha = (colour_ & PNG_COLOR_MASK_ALPHA) != 0;
        const unsigned channels = (grey ? 1 : 3) + (alpha ? 1 : 0), bytes = bits_ == 16 ? 2 : 1;
        const std::uint8_t* value = row + x * channels * bytes;
        bool is_clear = has_clear_;
        for (unsigned i = 0; i < 3; ++i) {
            const std::uint8_t* one = value + (grey ? 0 : i * bytes);
            pixel[i] = bits_ == 16 && !(grey && alpha) ? narrow(one[0] << 8 | one[1], depth_)
                       : bits_ == 16 ? one[0]
                                     : static_cast<std::uint8_t>(*one * (255 / levels()));
            is_clear = is_clear && clear_[i] == (bits_ == 16 ? one[0] : pixel[i]);
        }
        pixel[3] = alpha ? value[(channels - 1) * bytes] : is_clear ? 0 : 255;
        return pixel;
    }

  private:
    int levels() const { return bits_ >= 8 ? 255 : (1 << bits_) - 1; }

    int bits_, colour_;
    const Depth& depth_;
    std::uint8_t palette_[256][4];
    std::uint8_t clear_[3] = {0, 0, 0};
    bool has_clear_ = false;
};

int orientation(const Reader& reader) {
    std::optional<std::string> exif, xmp;
    png_textp texts = nullptr;
    const int count = png_get_text(reader.png, reader.info, &texts, nullptr);
    for (int i = 0; i < count; ++i) {
        const std::string_view key(texts[i].key);
        const std::string text(texts[i].text == nullptr ? "" : texts[i].text,
                               std::max(texts[i].text_length, texts[i].itxt_length));
        if (key == "XML:com.adobe.xmp") xmp = text;
        if (key == "Raw profile type exif") {  // three lines of words, then the block in hex
            std::string block;
            int lines = 0, digits = 0, value = 0;
            for (const char sign : text) {
                if (sign == '\n') ++lines;
                const int digit = sign >= '0' && sign <= '9'   ? sign - '0'
                                  : sign >= 'a' && sign <= 'f' ? sign - 'a' + 10
                                  : sign >= 'A' && sign <= 'F' ? sign - 'A' + 10
                                                               : -1;
                if (lines < 3 || digit < 0) continue;
                value = (value << 4 | digit) & 0xff;
                if (++digits % 2 == 0) block.push_back(static_cast<char>(value));
            }
            exif = block;
        }
    }
    png_bytep block = nullptr;
    png_uint_32 size = 0;
    if (png_get_eXIf_1(reader.png, reader.info, &size, &block) != 0)
        exif = std::string(reinterpret_cast<const char*>(block), size);
    return orientation_of(exif ? &*exif : nullptr, xmp ? &*xmp : nullptr);
}

}  // namespace

Picture decode_png(Bytes file, const Decoding& decoding, int* turned) {
    Reader reader(file);
    if (!reader.read_header()) throw DataError("damaged header: " + std::string(reader.text));
    check_pixels(reader.width, reader.height, decoding);
    if (!has_end(file))
        throw DataError("cannot be decoded: the file ends early, its end marker is missing");
    const std::size_t row_bytes = reader.unpack();
    if (row_bytes == 0) throw DataError("cannot be decoded: " + std::string(reader.text));
    std::vector<std::uint8_t> values(row_bytes * reader.height);
    std::vector<png_bytep> rows(reader.height);
    for (std::size_t y = 0; y < rows.size(); ++y) rows[y] = values.data() + y * row_bytes;
    if (!reader.read_pixels(rows.data()))
        throw DataError("cannot be decoded: " + std::string(reader.text));
    reader.read_end();
    *turned = orientation(reader);

    const Pixels pixels(reader, decoding.depth);
    Picture picture(static_cast<int>(reader.width), static_cast<int>(reader.height));
    for (int y = 0; y < picture.height; ++y) {
        std::uint8_t* out = picture.row(y);
        for (int x = 0; x < picture.width; ++x, out += 3) {
            const auto pixel = pixels.at(rows[y], x);
            for (int i = 0; i < 3; ++i) {
                out[i] = pixel[i];
                if (!decoding.background) continue;
                const unsigned sum =
                    pixel[3] * pixel[i] + (255u - pixel[3]) * (*decoding.background)[i] + 128;
                out[i] = static_cast<std::uint8_t>((sum + (sum >> 8)) >> 8);
            }
        }
    }
    return picture;
}

}  // namespace hgnetv2
