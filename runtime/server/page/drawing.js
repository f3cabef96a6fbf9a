// Canvases that people draw on, and the PNG files that come of them.

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(type, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set([...type].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(data, 8);
  let crc = 0xffffffff;
  for (const byte of bytes.subarray(4, 8 + data.length)) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(8 + data.length, ~crc >>> 0);
  return bytes;
}

// A grey PNG of 8 bits whose pixels are exactly these numbers; a canvas would save colours.
export async function greyPng(values, width, height) {
  const rows = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) rows.set(values.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header[8] = 8; // bits; colour type 0 is grey
  const data = new Uint8Array(await new Response(packed).arrayBuffer());
  const signature = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]);
  return new Blob([signature, chunk("IHDR", header), chunk("IDAT", data), chunk("IEND", new Uint8Array(0))], { type: "image/png" });
}

// Numbers on a canvas, painted with a round brush: a label map, a depth map, or a mask.
export class Board {
  // colours: number -> [red, green, blue, alpha of 255]
  constructor(canvas, { width, height, colours }) {
    Object.assign(this, { canvas, width, height, colours, value: 0, brush: 5, background: null, before: [] });
    canvas.width = width;
    canvas.height = height;
    canvas.style.aspectRatio = `${width} / ${height}`;
    this.values = new Uint8Array(width * height);
    this.context = canvas.getContext("2d");
    canvas.onpointerdown = (event) => this.begin(event);
    canvas.onpointermove = (event) => this.last && this.stroke(event);
    canvas.onpointerup = canvas.onpointercancel = () => (this.last = null);
    this.show();
  }

  begin(event) {
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.remember();
    this.last = this.place(event);
    this.stroke(event);
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.width, ((event.clientY - box.top) / box.height) * this.height];
  }

  stroke(event) {
    const [x, y] = this.place(event);
    const [fromX, fromY] = this.last;
    const steps = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY) / Math.max(1, this.brush / 4)));
    for (let i = 1; i <= steps; i++) this.dab(fromX + ((x - fromX) * i) / steps, fromY + ((y - fromY) * i) / steps);
    this.last = [x, y];
    this.show();
  }

  dab(x, y) {
    const radius = Math.max(0.7, this.brush / 2);
    for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(this.height - 1, y + radius); row++) {
      for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(this.width - 1, x + radius); column++) {
        if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius) this.values[row * this.width + column] = this.value;
      }
    }
  }

  fill(left, top, right, bottom, value = this.value) {
    for (let row = Math.round(top); row < Math.round(bottom); row++) {
      this.values.fill(value, row * this.width + Math.round(left), row * this.width + Math.round(right));
    }
    this.show();
  }

  remember() {
    this.before.push(this.values.slice());
    if (this.before.length > 30) this.before.shift();
  }

  undo() {
    this.values = this.before.pop() ?? this.values;
    this.show();
  }

  show() {
    const { context, width, height, values } = this;
    context.clearRect(0, 0, width, height);
    const layer = new ImageData(width, height);
    for (let i = 0; i < values.length; i++) layer.data.set(this.colours[values[i]], 4 * i);
    if (!this.background) return context.putImageData(layer, 0, 0);
    context.drawImage(this.background, 0, 0, width, height);
    const over = new OffscreenCanvas(width, height);
    over.getContext("2d").putImageData(layer, 0, 0);
    context.drawImage(over, 0, 0);
  }

  png(number = (value) => value) {
    return greyPng(this.values.map(number), this.width, this.height);
  }
}
