// Resampling with an antialiased filter, separable, in fixed-point arithmetic.
//
// A filter of radius r is drawn out by the reduction s = old / new, so that every old pixel counts:
// the new pixel at i takes the old ones within r * max(s, 1) of (i + 1/2) * s, each weighted by the
// filter at its distance over max(s, 1). Weights are divided by their sum, rounded to 22 bits
// behind the point, and summed in whole numbers; levels are rounded to 0..255 after each direction.

#include "resize.h"

#include <algorithm>
#include <cmath>

namespace hgnetv2 {
namespace {

constexpr int weight_bits = 22;
constexpr double pi = 3.14159265358979323846;

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

double cubic(double x) {  // Keys's, with -1/2
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

double sinc(double x) { return x == 0 ? 1 : std::sin(x * pi) / (x * pi); }

double windowed_sinc(double x) { return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

/// The old pixels that one new pixel is made of.
struct Taps {
    int first, count;
    std::size_t weights;  // where they begin
};

struct Plan {
    std::vector<Taps> taps;
    std::vector<std::int32_t> weights;
    int first, end;  // the old pixels that any of them needs
};

/// For new pixels ``from`` to ``from + count`` of an edge of ``size`` that becomes of old ones from
/// ``low`` to ``high`` of an edge of ``old_size``.
Plan plan_edge(int old_size, float low, float high, int size, int from, int count, Filter filter) {
    const auto curve = filter == Filter::bilinear  ? triangle
                       : filter == Filter::bicubic ? cubic
                                                   : windowed_sinc;
    const double radius = filter == Filter::bilinear ? 1 : filter == Filter::bicubic ? 2 : 3;
    const double scale = static_cast<double>(high - low) / size;
    const double wide = std::max(scale, 1.0), support = radius * wide, narrower = 1 / wide;
    Plan plan{{}, {}, old_size, 0};
    std::vector<double> exact;
    for (int i = from; i < from + count; ++i) {
        const double centre = low + (i + 0.5) * scale;
        const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
        const int end = std::min(static_cast<int>(centre + support + 0.5), old_size);
        double sum = 0;
        exact.clear();
        for (int x = first; x < end; ++x) {
            exact.push_back(curve((x - centre + 0.5) * narrower));
            sum += exact.back();
        }
        plan.taps.push_back({first, std::max(end - first, 0), plan.weights.size()});
        for (double weight : exact) {
            if (sum != 0) weight /= sum;
            const double scaled = weight * (1 << weight_bits);
            plan.weights.push_back(static_cast<std::int32_t>(scaled + (scaled < 0 ? -0.5 : 0.5)));
        }
        plan.first = std::min(plan.first, first);
        plan.end = std::max(plan.end, end);
    }
    return plan;
}

std::uint8_t level(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> weight_bits, 0, 255));
}

constexpr std::int32_t half = 1 << (weight_bits - 1);

/// Rows ``first_row`` and following of ``from``, across.
Picture across(const Picture& from, const Plan& plan, int first_row, int rows) {
    Picture made(static_cast<int>(plan.taps.size()), rows);
    for (int y = 0; y < rows; ++y) {
        const std::uint8_t* in = from.row(first_row + y);
        std::uint8_t* out = made.row(y);
        for (const Taps& taps : plan.taps) {
            const std::int32_t* weight = plan.weights.data() + taps.weights;
            const std::uint8_t* pixel = in + 3 * taps.first;
            std::int32_t red = half, green = half, blue = half;
            for (int i = 0; i < taps.count; ++i, pixel += 3) {
                red += pixel[0] * weight[i];
                green += pixel[1] * weight[i];
                blue += pixel[2] * weight[i];
            }
            *out++ = level(red), *out++ = level(green), *out++ = level(blue);
        }
    }
    return made;
}

/// Columns ``first_column`` and following of ``from``, whose row 0 is the old row ``first_row``.
Picture down(const Picture& from, const Plan& plan, int first_row, int first_column, int columns) {
    Picture made(columns, static_cast<int>(plan.taps.size()));
    std::vector<std::int32_t> sums(std::size_t{3} * columns);
    for (int y = 0; y < made.height; ++y) {
        const Taps& taps = plan.taps[y];
        std::fill(sums.begin(), sums.end(), half);
        for (int i = 0; i < taps.count; ++i) {
            const std::int32_t weight = plan.weights[taps.weights + i];
            const std::uint8_t* in = from.row(taps.first - first_row + i) + 3 * first_column;
            for (std::size_t x = 0; x < sums.size(); ++x) sums[x] += in[x] * weight;
        }
        std::transform(sums.begin(), sums.end(), made.row(y), level);
    }
    return made;
}

/// Where each new pixel is taken from. The position is summed up, not multiplied: so does Pillow,
/// and the last bits decide.
std::vector<int> nearest_edge(int old_size, float low, float high, int size, int from, int count) {
    const double step = static_cast<double>(high - low) / size;
    double position = low + step * 0.5;
    std::vector<int> found;
    for (int i = 0; i < from + count; ++i, position += step)
        if (i >= from) found.push_back(std::clamp(static_cast<int>(position), 0, old_size - 1));
    return found;
}

Picture nearest(const Picture& from, const Resize& wanted) {
    const auto columns = nearest_edge(from.width, wanted.left, wanted.right, wanted.width,
                                      wanted.crop_left, wanted.crop_width);
    const auto rows = nearest_edge(from.height, wanted.top, wanted.bottom, wanted.height,
                                   wanted.crop_top, wanted.crop_height);
    Picture made(wanted.crop_width, wanted.crop_height);
    for (int y = 0; y < made.height; ++y)
        for (int x = 0; x < made.width; ++x)
            std::copy_n(from.row(rows[y]) + 3 * columns[x], 3, made.row(y) + 3 * x);
    return made;
}

/// Whether the height is resized first, as Pillow 13 does of tall pictures that become much lower.
bool vertical_first(const Picture& from, const Resize& wanted) {
    const int lower = from.height - wanted.height, narrower = from.width - wanted.width;
    return lower > 0 && narrower != 0 && lower > 2 * narrower;
}

}  // namespace

Picture resize(const Picture& picture, const Resize& wanted, Filter filter) {
    if (filter == Filter::nearest) return nearest(picture, wanted);
    const Plan columns = plan_edge(picture.width, wanted.left, wanted.right, wanted.width,
                                   wanted.crop_left, wanted.crop_width, filter);
    const Plan rows = plan_edge(picture.height, wanted.top, wanted.bottom, wanted.height,
                                wanted.crop_top, wanted.crop_height, filter);
    if (vertical_first(picture, wanted)) {
        Plan shifted = columns;
        for (Taps& taps : shifted.taps) taps.first -= columns.first;
        const Picture lower =
            down(picture, rows, 0, columns.first, std::max(columns.end - columns.first, 0));
        return across(lower, shifted, 0, lower.height);
    }
    const Picture narrow = across(picture, columns, rows.first, std::max(rows.end - rows.first, 0));
    return down(narrow, rows, rows.first, 0, narrow.width);
}

}  // namespace hgnetv2
