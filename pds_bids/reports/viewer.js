"use strict";
// Linked panels of NiiVue. Volumes arrive through scripts that call pdsViewer.receive, because a page from
// disk may run scripts but not read files.
const pdsViewer = (() => {
  const STEP_OPACITY = 0.1;
  const MOVES = {
    ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
    PageUp: [0, 0, 1], PageDown: [0, 0, -1],
  };
  const waiting = new Map();
  let open = null;

  function loadScript(url) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${decodeURI(url)} is not there; copy it with the report`));
      document.head.append(script);
    });
  }

  async function volumesOf(root) {
    if (typeof niivue === "undefined") await loadScript(root.dataset.library);
    const received = new Promise((resolve) => waiting.set(root.dataset.image, resolve));
    await loadScript(root.dataset.volumes);
    return received;
  }

  function element(tag, attributes, text) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    return made;
  }

  async function makePanel(spec, stage) {
    const figure = element("figure", { class: spec.is_synthetic ? "panel synthetic" : "panel" });
    const canvas = element("canvas", {
      tabindex: "0", role: "application", "data-panel": spec.key,
      "aria-label": `${spec.label}. Arrow keys move the crosshair left, right, forward and backward, ` +
        "page up and page down move it up and down.",
    });
    const frame = element("div", { class: "canvas" });
    frame.append(canvas);
    if (spec.is_synthetic) frame.append(element("span", { class: "watermark", "aria-hidden": "true" }, "SYNTHETIC"));
    const value = element("span", { class: "value" });
    const caption = element("figcaption", {}, spec.label + " ");
    caption.append(value);
    const over = element("span", { class: "over" });
    frame.append(over);
    figure.append(caption, frame);
    stage.append(figure);
    const nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.34, 0.71, 0.91, 1], crosshairWidth: 1.3,
      crosshairWidthUnit: "mm", crosshairGap: 6,
      fontColor: [0.9, 0.9, 0.9, 1], showAllOrientationMarkers: true, show3Dcrosshair: false, isColorbar: false, dragAndDropEnabled: false,
      isSliceMM: true, isRadiologicalConvention: false, sagittalNoseLeft: false, multiplanarLayout: 3,
      multiplanarShowRender: 0, multiplanarPadPixels: 14, scrollRequiresFocus: true, loadingText: "", logLevel: "error",
    });
    await nv.attachToCanvas(canvas);
    await addVolume(nv, spec, 1);
    nv.setSliceType(nv.sliceTypeMultiplanar);
    return { spec, canvas, nv, value, over };
  }

  async function addVolume(nv, spec, opacity) {
    const volume = await niivue.NVImage.loadFromBase64({
      base64: spec.base64, name: `${spec.key}.nii.gz`, colormap: spec.colour_map, opacity,
      cal_min: 0, cal_max: spec.maximum,
    });
    nv.addVolume(volume);
  }

  function tell(viewer, lead = viewer.panels[0].nv) {
    const mm = lead.frac2mm(lead.scene.crosshairPos);
    const names = ["x", "y", "z"].map((axis, k) => `${axis} ${Math.round(mm[k])}`);
    viewer.position.textContent = `${names.join(", ")} mm`;
    for (const { nv, value } of viewer.panels) {
      const [i, j, k] = nv.volumes[0].mm2vox([mm[0], mm[1], mm[2]]);
      value.textContent = nv.volumes[0].getValue(i, j, k).toFixed(2);
    }
  }

  function link(viewer) {
    for (const panel of viewer.panels) {
      const others = viewer.panels.filter((other) => other !== panel).map((other) => other.nv);
      panel.nv.broadcastTo(others, { "2d": true, "3d": false });
      panel.nv.onLocationChange = () => requestAnimationFrame(() => { if (open === viewer) tell(viewer, panel.nv); });
    }
  }

  function controls(viewer) {
    const bar = element("div", { class: "controls" });
    const synthetic = viewer.panels.find((panel) => panel.spec.key === "synthetic");
    const overlays = viewer.panels.filter((panel) => panel !== synthetic);
    const which = element("select", {});
    for (const { spec } of overlays) which.append(element("option", { value: spec.key }, spec.label));
    which.value = overlays.some(({ spec }) => spec.key === "acquired") ? "acquired" : overlays.at(-1).spec.key;
    const opacity = element("input", { type: "range", min: "0", max: "1", step: "0.05", value: "0" });
    const planes = element("select", {});
    for (const [name, type] of [["three planes", "Multiplanar"], ["axial", "Axial"], ["coronal", "Coronal"],
      ["sagittal", "Sagittal"]]) planes.append(element("option", { value: type }, name));
    const labelled = (text, control) => {
      const label = element("label", {}, `${text} `);
      label.append(control);
      return label;
    };
    viewer.position = element("output", { "aria-live": "off" });
    bar.append(labelled("Planes", planes), labelled("Over the synthetic image", which),
      labelled("Opacity", opacity), viewer.position);
    planes.addEventListener("change", () => {
      for (const { nv } of viewer.panels) nv.setSliceType(nv[`sliceType${planes.value}`]);
    });
    const applyOpacity = () => {
      const share = Number(opacity.value);
      if (synthetic.nv.volumes.length > 1) synthetic.nv.setOpacity(1, share);
      // What covers a synthetic image must be named: it is not synthetic.
      synthetic.over.textContent = share > 0 ? `covered to ${Math.round(100 * share)} % by: ${chosen().label}` : "";
    };
    const chosen = () => overlays.find(({ spec }) => spec.key === which.value).spec;
    which.addEventListener("change", async () => {
      if (synthetic.nv.volumes.length > 1) synthetic.nv.removeVolume(synthetic.nv.volumes[1]);
      await addVolume(synthetic.nv, chosen(), Number(opacity.value));
      applyOpacity();
    });
    opacity.addEventListener("input", applyOpacity);
    viewer.fade = (step) => {
      opacity.value = String(Number(opacity.value) + step);
      applyOpacity();
    };
    which.dispatchEvent(new Event("change"));
    return bar;
  }

  function onKey(viewer, event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName !== "CANVAS") return;
    const move = MOVES[event.key];
    // NiiVue tells the others only from the panel that has the focus.
    const panel = viewer.panels.find(({ canvas }) => canvas === event.target);
    if (move) panel.nv.moveCrosshairInVox(...move);
    else if (event.key === "+") viewer.fade(STEP_OPACITY);
    else if (event.key === "-") viewer.fade(-STEP_OPACITY);
    else return;
    event.preventDefault();
    event.stopPropagation();
    tell(viewer, panel.nv);
  }

  function close() {
    if (!open) return;
    // A page may hold only some sixteen WebGL contexts; those of a closed viewer are given back.
    for (const { nv } of open.panels) nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    open.stage.replaceChildren();
    open.stage.hidden = true;
    open.button.textContent = open.button.dataset.label;
    open.button.setAttribute("aria-expanded", "false");
    open = null;
  }

  async function show(root, button, stage, status) {
    const { panels: specs } = await volumesOf(root);
    stage.hidden = false;
    const grid = element("div", { class: "panels" });
    stage.append(grid);
    const viewer = { root, button, stage, panels: [] };
    open = viewer;
    for (const spec of specs) viewer.panels.push(await makePanel(spec, grid));
    link(viewer);
    stage.prepend(controls(viewer));
    grid.addEventListener("keydown", (event) => onKey(viewer, event), true);
    tell(viewer);
    button.textContent = "Close the viewer";
    button.setAttribute("aria-expanded", "true");
    status.textContent = "";
    root.dataset.ready = "true";
  }

  function attach(root) {
    const [button, status, stage] = ["button", "[role=status]", ".stage"].map((name) => root.querySelector(name));
    button.dataset.label = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const was = open;
      close();
      if (was && was.root === root) return;
      if (!document.createElement("canvas").getContext("webgl2")) {
        status.textContent = "This browser cannot draw the viewer (no WebGL 2); the picture above shows the same volumes.";
        return;
      }
      status.textContent = "Loading the volumes …";
      button.disabled = true;
      try {
        await show(root, button, stage, status);
      } catch (error) {
        close();
        status.textContent = `The viewer cannot be opened: ${error.message}`;
      }
      button.disabled = false;
    });
  }

  return {
    receive(content) {
      waiting.get(content.image)?.(content);
    },
    start() {
      document.querySelectorAll(".viewer").forEach(attach);
    },
    get current() {
      return open;
    },
  };
})();
pdsViewer.start();
