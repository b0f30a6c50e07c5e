// What is wrong with the page as it is on the screen now: a sentence for each fault.
() => {
  const faults = [];
  // What fades in or out is judged as it ends up.
  for (const one of document.getAnimations())
    if (Number.isFinite(one.effect.getComputedTiming().endTime)) one.finish();
  const shown = (one) => one.checkVisibility({ visibilityProperty: true, opacityProperty: true })
    && one.getClientRects().length > 0;
  const name = (one) => {
    const label = one.getAttribute("aria-label") || one.textContent || one.getAttribute("alt") || "";
    return `${one.tagName.toLowerCase()} "${label.trim().slice(0, 40)}"`;
  };

  // Nothing is wider than the screen, or than what scrolls around it; nothing is cut by a clip.
  if (document.documentElement.scrollWidth > innerWidth)
    faults.push(`the page is ${document.documentElement.scrollWidth} wide`);
  for (const one of document.querySelectorAll("svg, img, table, pre, canvas, video")) {
    if (!shown(one) || one.parentElement.closest("svg")) continue;
    const box = one.getBoundingClientRect();
    let left = 0, right = innerWidth;
    for (let up = one.parentElement; up; up = up.parentElement) {
      const how = getComputedStyle(up).overflowX;
      if (how === "visible") continue;
      const around = up.getBoundingClientRect(), start = around.left + up.clientLeft;
      if (how === "hidden" || how === "clip") [left, right] = [start, start + up.clientWidth];
      else [left, right] = [start - up.scrollLeft, start - up.scrollLeft + up.scrollWidth];
      break;
    }
    if (box.left < left - 1 || box.right > right + 1)
      faults.push(`${name(one)} is cut: ${box.left} to ${box.right} in ${left} to ${right}`);
  }

  // Colours: what is painted at the back of an element, and what contrast its own colour has there.
  const parse = (text) => {
    const found = (text.match(/[\d.]+(e-?\d+)?/g) || []).map(Number);
    const scale = text.startsWith("color(") ? 255 : 1;
    return { rgb: found.slice(0, 3).map((part) => part * scale), alpha: found[3] ?? 1 };
  };
  const over = (top, alpha, below) => top.map((part, at) => part * alpha + below[at] * (1 - alpha));
  const light = (rgb) => rgb.map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const canvas = matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches
    && getComputedStyle(document.documentElement).colorScheme.includes("dark") ? [18, 18, 18] : [255, 255, 255];
  const behind = (one) => {
    const layers = [];
    for (let up = one; up; up = up.parentElement) {
      const colour = parse(getComputedStyle(up).backgroundColor);
      if (colour.alpha > 0) layers.push(colour);
      if (colour.alpha === 1) break;
    }
    return layers.reduceRight((below, layer) => over(layer.rgb, layer.alpha, below), canvas);
  };
  const opacity = (one) => {
    let all = 1;
    for (let up = one; up; up = up.parentElement) all *= getComputedStyle(up).opacity;
    return all;
  };
  const inside = (box, x, y) => box.left <= x && x <= box.right && box.top <= y && y <= box.bottom;

  // Text of the page.
  const texts = document.createTreeWalker(document.body || document.documentElement, NodeFilter.SHOW_TEXT);
  const judged = new Set();
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const one = node.parentElement;
    if (!node.data.trim() || judged.has(one) || one.closest("svg, option, :disabled, script, style"))
      continue;
    judged.add(one);
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (!shown(one) || box.width < 2 || box.height < 2) continue;
    const style = getComputedStyle(one), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 600);
    const back = behind(one), colour = parse(style.color);
    const found = ratio(over(colour.rgb, colour.alpha * opacity(one), back), back);
    if (found < (large ? 3 : 4.5)) faults.push(`text ${name(one)} has contrast ${found.toFixed(2)}`);
  }

  // Drawings: their text is inside them, apart from other text, large enough and legible on what
  // it stands on; what bears data has 3:1.
  for (const svg of document.querySelectorAll("svg[role=img]")) {
    if (!shown(svg)) continue;
    const frame = svg.getBoundingClientRect(), paper = behind(svg), said = [];
    const shapes = [...svg.querySelectorAll("rect, circle, path, line, polyline, polygon")]
      .filter(shown).map((one) => ({ one, box: one.getBoundingClientRect(), style: getComputedStyle(one) }));
    for (const one of svg.querySelectorAll("text")) {
      const box = one.getBoundingClientRect(), style = getComputedStyle(one);
      if (!shown(one) || !one.textContent.trim()) continue;
      if (box.left < frame.left - 1.5 || box.right > frame.right + 1.5
        || box.top < frame.top - 2.5 || box.bottom > frame.bottom + 2.5)
        faults.push(`${name(one)} is cut at the edge of ${name(svg)}`);
      const scale = one.getScreenCTM().a || Math.abs(one.getScreenCTM().b);
      if (!one.hasAttribute("transform") && parseFloat(style.fontSize) * scale < 8)
        faults.push(`${name(one)} is ${(parseFloat(style.fontSize) * scale).toFixed(1)} pixels high`);
      let back = paper;
      const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
      for (const { one: shape, box: area, style: look } of shapes) {
        const before = shape.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING;
        if (shape.tagName === "rect" && before && look.fill !== "none" && inside(area, x, y))
          back = over(parse(look.fill).rgb, look.fillOpacity * opacity(shape), back);
      }
      const found = ratio(parse(style.fill).rgb, back);
      if (found < 4.5) faults.push(`${name(one)} of ${name(svg)} has contrast ${found.toFixed(2)}`);
      if (!one.hasAttribute("transform")) said.push({ one, box });
    }
    said.forEach(({ one, box }, at) => said.slice(at + 1).forEach(({ one: other, box: its }) => {
      const wide = Math.min(box.right, its.right) - Math.max(box.left, its.left);
      const high = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
      if (wide > 2 && high > 4) faults.push(`${name(one)} and ${name(other)} overlap in ${name(svg)}`);
    }));
    for (const { one, style } of shapes) {
      if (!/^[fs]\d/.test(one.getAttribute("class") || "")) continue;
      const drawn = one.getAttribute("class")[0] === "f" ? style.fill : style.stroke;
      if (style.fillOpacity * opacity(one) < 0.99) continue;
      const found = ratio(parse(drawn).rgb, paper);
      if (found < 3) faults.push(`${one.tagName} ${drawn} of ${name(svg)} has contrast ${found.toFixed(2)}`);
    }
  }

  // What is to be filled in is seen to be: its edge or its ground.
  for (const one of document.querySelectorAll("select, input:not([type=file])")) {
    if (!shown(one) || one.matches("[type=checkbox], [type=radio], [type=hidden]")) continue;
    const style = getComputedStyle(one), around = behind(one.parentElement);
    const edge = parseFloat(style.borderTopWidth) > 0 ? parse(style.borderTopColor).rgb : around;
    const found = Math.max(ratio(edge, around), ratio(behind(one), around));
    if (found < 3) faults.push(`the edge of ${name(one)} has ${found.toFixed(2)}`);
  }
  return faults;
}
