// The page's 3D viewer: three.js draws, this file unpacks the rows and ties the buttons to what is drawn.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const box = document.getElementById("viewer");
  const canvas = box.querySelector("canvas");
  const input = (name) => document.querySelector(`[data-viewer="${name}"]`);
  const COLORS = { skin: 0x73abd6, bones: 0xf5e8cc, target: 0xa9abb3 };
  const VIEWS = { front: [0, 0, 1], side: [1, 0, 0], back: [0, 0, -1], top: [0, 1, 0.001] };
  const FRAME_DEG = 24; // field of view

  let renderer;
  try {
    renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
  } catch (error) {
    box.classList.add("without-webgl");
    return;
  }
  renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
  renderer.outputEncoding = THREE.sRGBEncoding;
  const scene = new THREE.Scene();
  const camera = new THREE.PerspectiveCamera(FRAME_DEG, 1, 0.05, 100);
  const sun = new THREE.DirectionalLight(0xfff8ee, 0.85);
  scene.add(new THREE.HemisphereLight(0xffffff, 0x9a958c, 0.55), sun);
  const controls = new THREE.TrackballControls(camera, canvas);
  controls.rotateSpeed = 2.5;
  controls.staticMoving = true;
  controls.noZoom = true; // until the viewer is clicked: the wheel scrolls the page

  function bytes(text) {
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out.buffer;
  }
  function indices(faces) {
    const buffer = bytes(faces.data);
    return new THREE.BufferAttribute(faces.bits === 32 ? new Uint32Array(buffer) : new Uint16Array(buffer), 1);
  }
  const faces = {};
  for (const [gender, parts] of Object.entries(data.faces)) {
    faces[gender] = { skin: indices(parts.skin), bones: indices(parts.bones) };
    faces[gender].target = faces[gender].skin;
  }
  const linear = (hex) => new THREE.Color(hex).convertSRGBToLinear();
  const stops = data.heat.map(linear);

  function geometry(row, name) {
    const packed = new Int16Array(bytes(row.meshes[name])), points = new Float32Array(packed.length);
    for (let i = 0; i < packed.length; i++) points[i] = packed[i] * row.step;
    const mesh = new THREE.BufferGeometry();
    mesh.setAttribute("position", new THREE.BufferAttribute(points, 3));
    mesh.setIndex(faces[row.gender][name]);
    mesh.computeVertexNormals();
    return mesh;
  }
  function distanceColors(skin, target) {
    const a = skin.attributes.position.array, b = target.attributes.position.array;
    const colors = new Float32Array(a.length), color = new THREE.Color();
    for (let i = 0; i < a.length; i += 3) {
      const mm = 1000 * Math.hypot(a[i] - b[i], a[i + 1] - b[i + 1], a[i + 2] - b[i + 2]);
      const place = Math.min(mm / data.high_mm, 1) * (stops.length - 1), k = Math.min(Math.floor(place), stops.length - 2);
      color.copy(stops[k]).lerp(stops[k + 1], place - k).toArray(colors, i);
    }
    skin.setAttribute("color", new THREE.BufferAttribute(colors, 3));
  }
  function material(hex) {
    return new THREE.MeshStandardMaterial({ color: linear(hex), roughness: 0.75, metalness: 0 });
  }
  function shell(hex) {
    // Denser towards the outline, as a thin wall is.
    const made = material(hex);
    made.transparent = true;
    made.onBeforeCompile = (shader) => {
      shader.fragmentShader = shader.fragmentShader.replace(
        "#include <output_fragment>",
        `#include <output_fragment>
         float facing = max(abs(dot(normalize(normal), normalize(vViewPosition))), 0.12);
         gl_FragColor.a = 1.0 - pow(max(1.0 - opacity, 0.0), 1.0 / facing);`
      );
    };
    return made;
  }
  const materials = {
    skin: shell(COLORS.skin), heat: shell(0xffffff), bones: material(COLORS.bones), target: shell(COLORS.target),
    depth: new THREE.MeshBasicMaterial({ colorWrite: false }),
  };
  materials.heat.vertexColors = true;

  let meshes = {}, radius = 1;
  function show(number) {
    for (const mesh of Object.values(meshes)) { scene.remove(mesh); mesh.geometry.dispose(); }
    meshes = {};
    const row = data.rows[number];
    for (const name of Object.keys(row.meshes)) meshes[name] = new THREE.Mesh(geometry(row, name), materials[name]);
    if (meshes.target) distanceColors(meshes.skin.geometry, meshes.target.geometry);
    // Of a translucent skin the nearest wall only: its depth is drawn first.
    meshes.depth = new THREE.Mesh(meshes.skin.geometry, materials.depth);
    meshes.depth.renderOrder = 1;
    meshes.skin.renderOrder = 2;
    if (meshes.target) meshes.target.renderOrder = 3;
    scene.add(...Object.values(meshes));
    radius = Math.max(...["skin", "bones"].map((name) => {
      meshes[name].geometry.computeBoundingSphere();
      const sphere = meshes[name].geometry.boundingSphere;
      return sphere.radius + sphere.center.length();
    }));
    document.querySelectorAll("[data-row]").forEach((button) => {
      button.setAttribute("aria-pressed", String(Number(button.dataset.row) === number));
    });
    document.getElementById("viewer-facts").innerHTML = "";
    for (const [term, text] of row.facts) {
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = term;
      dd.textContent = text;
      document.getElementById("viewer-facts").append(dt, dd);
    }
    for (const name of ["target", "heat"]) {
      input(name).disabled = !meshes.target;
      input(name).closest("label").classList.toggle("off", !meshes.target);
    }
    style();
  }
  function style() {
    const heat = Boolean(meshes.target) && input("heat").checked, opacity = input("opacity").value / 100;
    meshes.skin.material = heat ? materials.heat : materials.skin;
    materials.skin.opacity = materials.heat.opacity = opacity;
    materials.target.opacity = 0.45;
    meshes.skin.visible = meshes.depth.visible = input("skin").checked && opacity > 0;
    meshes.bones.visible = input("bones").checked;
    if (meshes.target) meshes.target.visible = input("target").checked;
    document.getElementById("viewer-heat").hidden = !heat;
    draw();
  }
  function look(view) {
    const distance = (1.1 * radius) / Math.sin((FRAME_DEG / 2) * (Math.PI / 180)) / Math.min(1, camera.aspect * 1.15);
    controls.reset();
    controls.target.set(0, 0, 0);
    camera.up.set(0, 1, 0);
    camera.position.set(...VIEWS[view]).multiplyScalar(distance);
    camera.lookAt(0, 0, 0);
    draw();
  }
  function draw() {
    sun.position.copy(camera.position).normalize().add(new THREE.Vector3(-0.5, 0.7, 0).applyQuaternion(camera.quaternion));
    renderer.render(scene, camera);
    canvas.dataset.azimuth = ((Math.atan2(camera.position.x, camera.position.z) * 180) / Math.PI).toFixed(2);
  }
  function resize() {
    const { width, height } = box.getBoundingClientRect();
    if (!width || !height) return;
    camera.aspect = width / height;
    camera.updateProjectionMatrix();
    renderer.setSize(width, height, false);
    controls.handleResize();
    draw();
  }

  let turning = !window.matchMedia("(prefers-reduced-motion: reduce)").matches, seen = false, last = 0;
  function tick(now) {
    requestAnimationFrame(tick);
    if (!seen) return;
    if (turning) {
      camera.position.applyAxisAngle(camera.up, (Math.min(now - last, 50) / 1000) * 0.35);
      camera.lookAt(controls.target);
      draw();
    }
    last = now;
    controls.update();
  }
  const halt = () => { turning = false; };
  canvas.addEventListener("pointerdown", () => { halt(); controls.noZoom = false; });
  canvas.addEventListener("pointerleave", () => { controls.noZoom = true; });
  controls.addEventListener("change", draw);
  document.querySelectorAll("[data-row]").forEach((button) => {
    button.addEventListener("click", () => { show(Number(button.dataset.row)); });
  });
  document.querySelectorAll("[data-look]").forEach((button) => {
    button.addEventListener("click", () => { halt(); look(button.dataset.look); });
  });
  for (const name of ["skin", "bones", "target", "opacity"]) input(name).addEventListener("input", style);
  input("heat").addEventListener("input", () => {
    // Colours that are numbers need an opaque skin, which bones may not pierce.
    input("opacity").value = input("heat").checked ? 100 : 22;
    input("bones").checked = !input("heat").checked;
    style();
  });
  new ResizeObserver(resize).observe(box);
  new IntersectionObserver((entries) => { seen = entries[entries.length - 1].isIntersecting; }).observe(box);

  show(0);
  resize();
  look("front");
  requestAnimationFrame(tick);
})();
