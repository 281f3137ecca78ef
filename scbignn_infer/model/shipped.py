"""The shipped models, by the checksums of their records, which hold those of all files.

``training/tables/make_shipped.py`` writes this file, once it has checked them whole.
"""

SHIPPED = frozenset(
    {
        # human-body
        "f934ff5f65bee14887f20ea24da52a409d3489fc20e4b21c97aa84eaddf06326",
        # human-lung-cancer-lines
        "c4053b388d11aeb1260e4ba1dea61fcf07896cc59daf9bddb0a9512be1a517a9",
        # human-pancreas
        "880df643971f8dfac64f5c05613e2b8f2a1cc46004c087675e1fcee80b8dcd48",
        # human-pbmc
        "ae05cbf73e1d20dd19ab859f8e0a97dab8b94f860c3bb3d8711fa93176c22e38",
        # mouse-body
        "fc333548ef6ec0283f03a21898a500a08f6e82c2d431187d65540e1c4b10b172",
        # mouse-pancreas
        "780316ac1e60b28210c1a890b0aa0f9141b170ad8ae8c6163aa88781d9b05dc1",
    }
)
