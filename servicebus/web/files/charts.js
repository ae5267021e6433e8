"use strict";
// Draws what an element with data-series says (series.as_json) into the element that it names by data-charts. The same is
// told in text beside it, so the charts are for those who see them alone.
(() => {
  const HEIGHT = 180;
  const DASHES = [[], [6, 4], [2, 3]];
  const drawn = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const marks = (series) => ({
    hooks: {
      draw: (chart) => {
        const { ctx, bbox } = chart;
        ctx.save();
        ctx.lineWidth = 1;
        for (const [at, , isBad] of series.marks) {
          const x = Math.round(chart.valToPos(at, "x", true));
          if (x < bbox.left || x > bbox.left + bbox.width) continue;
          ctx.strokeStyle = colour(isBad ? "--bad" : "--quiet");
          ctx.setLineDash(isBad ? [] : [3, 3]);
          ctx.beginPath();
          ctx.moveTo(x, bbox.top);
          ctx.lineTo(x, bbox.top + bbox.height);
          ctx.stroke();
        }
        ctx.restore();
      },
    },
  });

  // Times are those of the console's machine, as all over the page, and not the browser's.
  const offset = Number(document.documentElement.dataset.offset) * 1000;
  const local = (at) => {
    const date = new Date(at * 1000);
    return new Date(date.getTime() + offset + date.getTimezoneOffset() * 60000);
  };
  const two = (number) => String(number).padStart(2, "0");
  const dayOf = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const clockOf = (date) => `${two(date.getHours())}:${two(date.getMinutes())}`;
  const onAxis = (at, index) => (index ? clockOf(local(at)) : `${clockOf(local(at))}\n${dayOf(local(at))}`);
  const inLegend = (_chart, at) => (at === null ? "--" : `${dayOf(local(at))} ${clockOf(local(at))}`);

  const axis = () => ({ stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } });

  const make = (box, series, shown) => new uPlot({
    title: shown.title,
    width: box.clientWidth,
    height: HEIGHT,
    plugins: [marks(series)],
    cursor: { drag: { x: false, y: false } },
    scales: { y: { range: (_chart, _least, most) => [0, most > 0 ? most * 1.1 : 1] } },
    tzDate: local,
    axes: [{ ...axis(), values: (_chart, times) => times.map(onAxis) }, axis()],
    series: [{ label: "Time", value: inLegend }].concat(shown.lines.map(([name], index) => ({
      label: name,
      stroke: colour(`--line-${index + 1}`),
      width: 2,
      dash: DASHES[index % DASHES.length],
      points: { show: false },
      spanGaps: false,
      ...(shown.stepped ? { paths: uPlot.paths.stepped({ align: 1 }), fill: `${colour(`--line-${index + 1}`)}22` } : {}),
    }))),
  }, [series.times].concat(shown.lines.map(([, values]) => values)), box);

  const draw = () => {
    for (const source of document.querySelectorAll("[data-series]")) {
      const box = document.getElementById(source.dataset.charts);
      if (!box || (drawn.get(box) || {}).text === source.dataset.series) continue;
      for (const chart of (drawn.get(box) || { charts: [] }).charts) chart.destroy();
      const series = JSON.parse(source.dataset.series);
      drawn.set(box, { text: source.dataset.series, charts: series.charts.map((shown) => make(box, series, shown)) });
    }
  };
  const again = () => {
    for (const held of drawn.values()) held.text = null;
    draw();
  };
  document.addEventListener("htmx:afterSwap", draw);
  window.addEventListener("resize", again);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  draw();
})();
