// Making elements and small pictures.

/** An element with properties and children. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A picture (a blob) as a small data URL, null where it cannot be read. */
export async function shrink(blob, side) {
  try {
    const image = await createImageBitmap(blob);
    const scale = side / Math.min(image.width, image.height);
    const canvas = element("canvas", { width: side, height: side });
    const [width, height] = [image.width * scale, image.height * scale];
    canvas.getContext("2d").drawImage(image, (side - width) / 2, (side - height) / 2, width, height);
    return canvas.toDataURL("image/webp", 0.8);
  } catch {
    return null;
  }
}

/** Base64 as a PNG blob. */
export function pngBlob(base64) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}
